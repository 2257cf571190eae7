"""The tables and figures of the pFedHR paper, by one command each."""

from pfedhr.reproduction.beside import beside_sheet
from pfedhr.reproduction.run import redraw, reproduce
from pfedhr.reproduction.scales import SCALES, Scale
from pfedhr.reproduction.targets import TARGETS, Target

__all__ = ["SCALES", "TARGETS", "Scale", "Target", "beside_sheet", "redraw", "reproduce"]
