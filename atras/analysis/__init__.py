"""Answers from the results of runs: statistics over seeds, the paper's tables and claims, comparisons, a summary for
people, timings of single networks, and exports of trained ones. Reads results and computes nothing that they lack."""

from .as_data import claims_data, comparison_data, frame_csv, json_text, run_data, search_data
from .attack_aims import attack_aim
from .attack_distances import attack_distances
from .attack_modules import Robustness, attack, evaluate
from .black_box import black_box, masked, source_means
from .claims import Claim, claims, why_no_claims
from .compare import compare, compare_lines, difference_lines
from .export import EXPORT_FORMATS, Format, best_robust, export, export_pareto, load
from .images import compare_images, image_pairs, mcnemar, worst_case
from .network_table import network_lines, network_table
from .paper_tables import PAPER_NAMES, PaperName, distance, paper_table, row_by_row, text_against_tables, trained_rows
from .provenance import notices, other_test_images, require_whole
from .recorded_runs import recorded_runs
from .statistics import (
    RANK_BY,
    bootstrap_mean,
    compare_depths,
    holm,
    independent_images,
    pareto,
    ranking,
    sign_flip_test,
)
from .step_timing import measure_steps, measured_steps, timing_caution
from .summary_table import caution_lines, summary_lines

__all__ = [
    "EXPORT_FORMATS",
    "PAPER_NAMES",
    "RANK_BY",
    "Claim",
    "Format",
    "PaperName",
    "Robustness",
    "attack",
    "attack_aim",
    "attack_distances",
    "best_robust",
    "black_box",
    "bootstrap_mean",
    "caution_lines",
    "claims",
    "claims_data",
    "compare",
    "compare_depths",
    "compare_images",
    "compare_lines",
    "comparison_data",
    "difference_lines",
    "distance",
    "evaluate",
    "export",
    "export_pareto",
    "frame_csv",
    "holm",
    "image_pairs",
    "independent_images",
    "json_text",
    "load",
    "masked",
    "mcnemar",
    "measure_steps",
    "measured_steps",
    "network_lines",
    "network_table",
    "notices",
    "other_test_images",
    "paper_table",
    "pareto",
    "ranking",
    "recorded_runs",
    "require_whole",
    "row_by_row",
    "run_data",
    "search_data",
    "sign_flip_test",
    "source_means",
    "summary_lines",
    "text_against_tables",
    "timing_caution",
    "trained_rows",
    "why_no_claims",
    "worst_case",
]
