"""Sequential music recommendation that learns from skips (Seshadri & Knees 2023, arXiv 2309.11623).

Import the part you need: ``from skipjax import losses``.
"""

__version__ = "0.1.0"
