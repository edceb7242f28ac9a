"use strict";
// The table of runs, and the comparison of those that are chosen; what is chosen is in the address.
const byId = (id) => document.getElementById(id);
const [section, filter, said] = ["comparison", "filter", "said"].map(byId);
const { rows, columns } = JSON.parse(byId("data").textContent); // run -> column -> text; column -> its kind
const choice = new URLSearchParams(location.hash.slice(1));
const remember = () => history.replaceState(null, "", `#${choice}`);
const chosen = () => (section.dataset.run ? [section.dataset.run] : choice.getAll("compare"));
const runs = {}, scripts = {}; // those that are loaded: each assets/runs/<run>.js adds its own run
const COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]; // Okabe and Ito 2008
const DASHES = [["solid", "solid"], ["dash", "dashed"], ["dot", "dotted"]]; // of plotly, of CSS

function make(tag, attributes, ...children) {
  const element = document.createElement(tag);
  Object.entries(attributes).forEach(([name, value]) => element.setAttribute(name, value));
  element.append(...children); // a string becomes text, whatever is in it
  return element;
}

const load = (path) => (scripts[path] ??= new Promise((onload, reject) => {
  const src = document.body.dataset.root + path.split("/").map(encodeURIComponent).join("/");
  const onerror = () => reject(Error(`${path} is missing: write the pages anew.`));
  document.head.append(Object.assign(make("script", { src }), { onload, onerror }));
}));

async function compare() {
  const asked = chosen(), names = asked.filter((run) => run in rows && !rows[run].error);
  if ((section.hidden = !asked.length)) return;
  said.textContent = asked.filter((run) => !names.includes(run)).map((run) => `There is no run ${run} here. `).join("");
  await Promise.all(["assets/plotly.js", ...names.map((run) => `assets/runs/${run}.js`)].map(load));
  if (String(asked) !== String(chosen())) return; // another choice was made meanwhile
  const line = (n) => make("i", { style: `color: ${COLORS[n % 6]}; border-style: ${DASHES[n % 3][1]}` });
  byId("legend").replaceChildren(...names.map((run, n) => make("li", {}, line(n), run)));
  drawCurves(names);
  byId("tables").replaceChildren(...(names[1] ? [difference(names, "parameter"), difference(names, "score")] : []));
  names.forEach((run) => runs[run].queries.queries || (said.textContent += `${run} has no neighbours to show. `));
  byId("neighbors").replaceChildren(...neighbors(names));
}

const show = () => compare().catch(({ message }) => (said.textContent += message));

function drawCurves(names) {
  const along = choice.get("along") ?? "steps", weight = Number(choice.get("smoothing") ?? 0), panels = {};
  const mean = (before, value) => (value === null || before === null ? value : weight * before + (1 - weight) * value);
  names.forEach((run, n) => runs[run].curves.forEach(({ x, y }) => Object.entries(y).forEach(([quantity, values]) => {
    const name = run.replace(/[<>&$]/g, (sign) => `&#${sign.charCodeAt()};`); // plotly reads it as HTML
    const look = { name, x: x[along], mode: "lines+markers", marker: { size: values.length > 20 ? 1 : 6 },
      line: { color: COLORS[n % 6], dash: DASHES[n % 3][0] } };
    const smoothed = values.reduce((means, value) => [...means, mean(means.at(-1) ?? null, value)], []);
    (panels[quantity] ??= []).push({ ...look, y: smoothed });
    if (quantity === "loss") panels.loss.push({ ...look, y: values.map(() => runs[run].chance), opacity: 0.5 });
  })));
  const plot = (quantity) => make("div", { role: "img", "aria-label": `${quantity} along ${along}: ${names}` });
  const title = (name) => make("figcaption", {}, name === "loss" ? "loss; faint: that of chance" : name);
  const figures = Object.keys(panels).map((name) => make("figure", {}, title(name), plot(name)));
  byId("curves").replaceChildren(...figures); // before they are drawn: each fits the width that it has
  const axis = { gridcolor: "#8885", zeroline: false, automargin: true }, type = choice.has("log") ? "log" : "linear";
  const layout = { height: 260, margin: { l: 45, r: 10, t: 5, b: 40 }, showlegend: false, hovermode: "x",
    font: { color: getComputedStyle(section).color }, paper_bgcolor: "transparent", plot_bgcolor: "transparent",
    xaxis: { ...axis, title: { text: along } }, yaxis: { ...axis, type } };
  const look = { responsive: true, displaylogo: false };
  Object.values(panels).forEach((traces, n) => Plotly.newPlot(figures[n].lastChild, traces, layout, look));
}

const differ = (column, names) => new Set(names.map((run) => rows[run][column])).size > 1;
function difference(names, kind) {
  const shown = Object.keys(columns).filter((column) => columns[column] === kind && differ(column, names));
  const line = (head, texts, tag) => make("tr", {}, make("th", {}, head), ...texts.map((text) => make(tag, {}, text)));
  return make("table", {}, make("caption", {}, `Each ${kind} in which they differ`), line("", names, "th"),
    ...shown.map((column) => line(column, names.map((run) => rows[run][column]), "td")));
}

function neighbors(names) {
  const states = choice.has("before") ? ["untrained encoder", "trained encoder"] : ["trained encoder"], blocks = {};
  names.forEach((run) => {
    const { dataset, queries = [], neighbors, similarities, labels, thumbnails } = runs[run].queries;
    const image = (id, note, attributes) => make("figure", attributes, make("img", { src: thumbnails[id], alt: "" }),
      make("figcaption", {}, `${note} ${labels[id]}`));
    queries.forEach((query, n) => {
      const asked = image(query, "query:", {}), place = `${dataset} ${query}`;
      const block = (blocks[place] ??= make("section", { "data-query": query }, asked));
      const neighbor = (state) => (id, k) => {
        const kind = !labels[id] || !labels[query] ? "" : labels[id] === labels[query] ? "hit" : "miss";
        const about = `no. ${id}, similarity ${similarities[state][n][k]}`;
        return image(id, { hit: "✓", miss: "✗" }[kind] ?? "", { "data-id": id, class: kind, title: about });
      };
      const head = (state) => make("h4", {}, run, make("small", {}, state));
      const line = (state) => make("div", { "data-of": run }, head(state), ...neighbors[state][n].map(neighbor(state)));
      block.append(...states.map(line));
    });
  });
  return Object.values(blocks);
}

function showTable() { // DataTables sorts, filters and hides columns; hidden ones are not in the page
  const order = (sign) => (a, b) => (a === "" || b === "" ? (a === "") - (b === "") : sign * (a - b)); // missing last
  DataTable.type("number", "order", { asc: order(1), desc: order(-1) });
  const heads = [...document.querySelectorAll("#runs th")].map((th) => th.dataset);
  const [by, direction] = (choice.get("order") ?? "").split("|"), at = heads.findIndex(({ column }) => column === by);
  const asked = choice.get("columns")?.split("|");
  const showDiffering = (_, table) => {
    const listed = table.rows({ search: "applied" }).nodes().toArray().map((tr) => tr.dataset.run);
    const visible = (column) => column === "run" || (columns[column] !== "detail" && differ(column, listed));
    if (listed[1]) heads.forEach(({ column }, n) => column && table.column(n).visible(visible(column), false));
  };
  const shown = (head) => !("column" in head) || (asked ? asked.includes(head.column) : "shown" in head);
  const buttons = [{ extend: "colvis", text: "Columns" }, { text: "Only what differs", action: showDiffering },
    { extend: "colvisRestore", text: "Usual columns" }];
  document.querySelectorAll("[data-compare]").forEach((box) => (box.checked = chosen().includes(box.dataset.compare)));
  const table = new DataTable("#runs", {
    paging: false, autoWidth: false, columnControl: [["search"]], order: at < 0 ? [] : [[at, direction]],
    columns: heads.map(({ type, ...head }) => ({ type, orderable: "column" in head, visible: shown(head) })),
    layout: { topStart: { buttons }, topEnd: null, bottomStart: null, bottomEnd: null },
  });
  table.on("order column-visibility", () => {
    choice.set("order", table.order().map(([n, direction]) => `${heads[n].column}|${direction}`)[0] ?? "");
    choice.set("columns", heads.filter((_, n) => table.column(n).visible()).map((head) => head.column ?? "").join("|"));
    remember();
  });
  table.on("change", ({ target: { checked, dataset } }) =>
    (choice[checked ? "append" : "delete"]("compare", dataset.compare), remember(), show()));
  return table;
}

const table = filter && showTable(), dark = matchMedia("(prefers-color-scheme: dark)");
for (const control of document.querySelectorAll("[data-choice]")) {
  const name = control.dataset.choice, value = control.type === "checkbox" ? "checked" : "value";
  control[value] = choice.get(name) ?? control[value];
  control.addEventListener("input", () => {
    control[value] ? choice.set(name, control[value]) : choice.delete(name);
    remember(), control === filter ? table.search(filter.value).draw() : show();
  });
}
document.documentElement.classList.toggle("dark", dark.matches), table?.search(filter.value).draw(), show();
dark.onchange = onhashchange = () => location.reload();
onbeforeprint = () => document.querySelectorAll(".js-plotly-plot").forEach((plot) => Plotly.Plots.resize(plot));
