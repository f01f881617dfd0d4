"""Answers from the results of runs: statistics over seeds, the paper's tables and claims, comparisons, a summary for
people, timings of single networks, and exports of trained ones. Reads results and computes nothing that they lack."""

from .as_data import claims_data, comparison_data, frame_csv, json_text, run_data, search_data
from .attack_aims import attack_aim
from .attack_distances import attack_distances
from .attack_modules import Robustness, attack, evaluate
from .black_box import black_box, masked, source_means
from .claims import Claim, claims, table_claims, why_no_claims
from .compare import compare
from .compare_text import compare_lines, difference_lines
from .confirmed import confirmed, confirmed_record, confirmed_sentence, to_confirm
from .export import EXPORT_FORMATS, Format, best_robust, export, export_pareto, load, source_note
from .front_table import pareto_lines
from .images import compare_images, image_pairs, mcnemar
from .network_table import network_lines, network_table
from .paper_tables import PAPER_NAMES, PaperName, distance, paper_table, row_by_row, tables_oddities, trained_rows
from .paper_text import MARGIN, STATEMENTS, Stated, Statement, stated_figures, tables_figures
from .provenance import not_compared, notices, other_test_images, require_whole
from .recorded_runs import recorded_runs
from .statistics import (
    RANK_BY,
    Interval,
    Mean,
    Term,
    chosen_elsewhere,
    column_terms,
    compare_depths,
    depth_intervals,
    group_mean,
    holm,
    independent_images,
    max_t,
    members_interval,
    metric_terms,
    ordered,
    pareto,
    ranking,
    robust_column,
    seeds_note,
    worst_case,
)
from .step_timing import measure_steps, measured_steps, timing_caution
from .summary_table import caution_lines, summary_lines
from .transfer_table import transfer_table
from .unequal_training import begins, unequal_training
from .winner import (
    Winner,
    alone_sentence,
    elsewhere,
    interval_note,
    lacks,
    winner,
    winner_lines,
    winner_sentences,
    winners,
)

__all__ = [
    "EXPORT_FORMATS",
    "MARGIN",
    "PAPER_NAMES",
    "RANK_BY",
    "STATEMENTS",
    "Claim",
    "Format",
    "Interval",
    "Mean",
    "PaperName",
    "Robustness",
    "Stated",
    "Statement",
    "Term",
    "Winner",
    "alone_sentence",
    "attack",
    "attack_aim",
    "attack_distances",
    "begins",
    "best_robust",
    "black_box",
    "caution_lines",
    "chosen_elsewhere",
    "claims",
    "claims_data",
    "column_terms",
    "compare",
    "compare_depths",
    "compare_images",
    "compare_lines",
    "comparison_data",
    "confirmed",
    "confirmed_record",
    "confirmed_sentence",
    "depth_intervals",
    "difference_lines",
    "distance",
    "elsewhere",
    "evaluate",
    "export",
    "export_pareto",
    "frame_csv",
    "group_mean",
    "holm",
    "image_pairs",
    "independent_images",
    "interval_note",
    "json_text",
    "lacks",
    "load",
    "masked",
    "max_t",
    "mcnemar",
    "measure_steps",
    "measured_steps",
    "members_interval",
    "metric_terms",
    "network_lines",
    "network_table",
    "not_compared",
    "notices",
    "ordered",
    "other_test_images",
    "paper_table",
    "pareto",
    "pareto_lines",
    "ranking",
    "recorded_runs",
    "require_whole",
    "robust_column",
    "row_by_row",
    "run_data",
    "search_data",
    "seeds_note",
    "source_means",
    "source_note",
    "stated_figures",
    "summary_lines",
    "table_claims",
    "tables_figures",
    "tables_oddities",
    "timing_caution",
    "to_confirm",
    "trained_rows",
    "transfer_table",
    "unequal_training",
    "why_no_claims",
    "winner",
    "winner_lines",
    "winner_sentences",
    "winners",
    "worst_case",
]
