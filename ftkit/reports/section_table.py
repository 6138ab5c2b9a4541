"""The sections of the report of a run, in their order. A section is added by a line here."""

from __future__ import annotations

from ftkit.reports.report_data import ReportData
from ftkit.reports.section import Section
from ftkit.reports.sections.results.class_scores import class_scores
from ftkit.reports.sections.results.confusion_matrix import confusion_matrix
from ftkit.reports.sections.results.galleries import least_confident, mistakes
from ftkit.reports.sections.results.headline import headline
from ftkit.reports.sections.results.heat_map_gallery import heat_maps
from ftkit.reports.sections.results.label_errors import label_errors
from ftkit.reports.sections.results.reliability_diagram import reliability_diagram
from ftkit.reports.sections.results.risk_curve import risk_curve
from ftkit.reports.sections.results.worst_slices import worst_slices
from ftkit.reports.sections.settings.data_summary import data_summary
from ftkit.reports.sections.settings.next_commands import next_commands
from ftkit.reports.sections.settings.run_settings import run_settings
from ftkit.reports.sections.training.compared_recipes import compared_recipes
from ftkit.reports.sections.training.drift_bars import drift_bars
from ftkit.reports.sections.training.epoch_curves import curves
from ftkit.reports.sections.training.schedule_picture import schedule_picture

SECTIONS: tuple[Section[ReportData], ...] = (
    Section("results", "Results", headline),
    Section("confusion", "Confusion matrix", confusion_matrix),
    Section("mistakes", "Mistakes", mistakes),
    Section("heat-maps", "Heat maps", heat_maps),
    Section("classes", "Classes", class_scores),
    Section("slices", "Slices", worst_slices),
    Section("reliability", "Reliability", reliability_diagram),
    Section("rejection", "Rejecting uncertain images", risk_curve),
    Section("least-confident", "Right, with little confidence", least_confident),
    Section("label-errors", "Probable label errors", label_errors),
    Section("recipes", "Recipes", compared_recipes),
    Section("curves", "Learning curves", curves),
    Section("schedule", "Schedule", schedule_picture),
    Section("drift", "Weight drift", drift_bars),
    Section("data", "Data", data_summary),
    Section("settings", "Settings", run_settings),
    Section("commands", "Commands", next_commands),
)
