"""Taking networks apart and putting new ones together. Pure: knows nothing of clients, rounds or federated learning."""

from pfedhr.reassembly.assembly import Joint, Sizes, assemble, layout
from pfedhr.reassembly.bank import BlockBank, BlockRef, deposit
from pfedhr.reassembly.blocks import Block, coarsen, decompose, run_chain
from pfedhr.reassembly.blueprint import Blueprint, Description, describe
from pfedhr.reassembly.completion import AnchorChoice, CompletionRules, Completions, complete
from pfedhr.reassembly.cutting import check_used
from pfedhr.reassembly.grouping import Groups, group
from pfedhr.reassembly.matching import Matching, Score, agreement, complement, match, match_logits
from pfedhr.reassembly.plans import BlockPlan, cut, rebuild_blocks
from pfedhr.reassembly.rebuilding import check_batch, input_of, rebuild
from pfedhr.reassembly.recipes import RULES, Recipe, Rules, Search, propose
from pfedhr.reassembly.sharing import predict_chains
from pfedhr.reassembly.similarity import Profile, Similarity, block_similarity, cka, hsic, profile
from pfedhr.reassembly.solving import solved_joints
from pfedhr.reassembly.stitching import StitchError, StitchKind, stitch
from pfedhr.reassembly.symbolic import DecompositionError
from pfedhr.reassembly.vocabulary import DescriptionError, register

__all__ = [
    "RULES",
    "AnchorChoice",
    "Block",
    "BlockBank",
    "BlockPlan",
    "BlockRef",
    "Blueprint",
    "CompletionRules",
    "Completions",
    "DecompositionError",
    "Description",
    "DescriptionError",
    "Groups",
    "Joint",
    "Matching",
    "Profile",
    "Recipe",
    "Rules",
    "Score",
    "Search",
    "Similarity",
    "Sizes",
    "StitchError",
    "StitchKind",
    "agreement",
    "assemble",
    "block_similarity",
    "check_batch",
    "check_used",
    "cka",
    "coarsen",
    "complement",
    "complete",
    "cut",
    "decompose",
    "deposit",
    "describe",
    "group",
    "hsic",
    "input_of",
    "layout",
    "match",
    "match_logits",
    "predict_chains",
    "profile",
    "propose",
    "rebuild",
    "rebuild_blocks",
    "register",
    "run_chain",
    "solved_joints",
    "stitch",
]
