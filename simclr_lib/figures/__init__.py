"""Figures: arrays and tables in, figures out. Nothing else imports matplotlib."""

from simclr_lib.figures.canvas import InlineFigure, save_figure
from simclr_lib.figures.photographs import image_grid, neighbor_grid, view_pairs
from simclr_lib.figures.training import health_curves, loss_curve, similarity_history, training_curves
