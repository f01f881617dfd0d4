"""Searches that drop candidates round by round: successive halving, its record, and the images that it holds out.
Each round is an ordinary run; the ranking comes from `analysis`."""

from .confirmation import confirm, seeds_to_confirm
from .halving import SUMMARY, plan_rounds, round_lines
from .holdout import data_cautions
from .search import FinishedRound, finished_rounds, is_search, last_round, rank_by_of, recorded, resume, search

__all__ = [
    "SUMMARY",
    "FinishedRound",
    "confirm",
    "data_cautions",
    "finished_rounds",
    "is_search",
    "last_round",
    "plan_rounds",
    "rank_by_of",
    "recorded",
    "resume",
    "round_lines",
    "search",
    "seeds_to_confirm",
]
