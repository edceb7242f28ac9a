from pathlib import Path

from simclr_lib.engine.paths import data_root, project_root


def test_project_root_is_the_nearest_folder_with_notebooks(tmp_path, monkeypatch):
    (tmp_path / "outer/notebooks").mkdir(parents=True)
    deep = tmp_path / "outer/inner/deep"
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    assert project_root() == tmp_path / "outer"
    (tmp_path / "outer/inner/notebooks").mkdir()
    assert project_root() == tmp_path / "outer/inner"


def test_project_root_is_the_working_directory_where_there_are_no_notebooks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notebooks").write_text("a file is no folder of notebooks")
    assert project_root() == tmp_path


def test_data_root_prefers_the_environment(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SIMCLR_DATA", "")
    assert data_root() == tmp_path / "data"
    monkeypatch.setenv("SIMCLR_DATA", "~/images")
    assert data_root() == Path.home() / "images"
