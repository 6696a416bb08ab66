"""Why a task is where it is, in plain words."""

from .explanation import Explanation, explain

__all__ = ["Explanation", "explain"]
