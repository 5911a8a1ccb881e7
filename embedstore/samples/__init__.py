"""Samples: what is classified, cut from genomes and contigs.

files ─ inputs ─▶ records ─ sources ─▶ canonical DNA, unique ids, groups
      ─ windows ─▶ chunks, many at once
      ─ cutting ─▶ stop-free frames with their keys; chunks dropped, by reason
      ─ outputs ─▶ samples.tsv, dna.fna, protein.faa, prepare.json
"""

from embedstore.samples.cutting import CutSamples, SourceSummary, cut_samples
from embedstore.samples.inputs import LabelledInput
from embedstore.samples.options import PrepareOptions
from embedstore.samples.preparing import prepare
from embedstore.samples.report import PrepareCounts, PrepareReport
from embedstore.samples.table import Sample, SampleBatch, read_samples

__all__ = [
    "CutSamples",
    "LabelledInput",
    "PrepareCounts",
    "PrepareOptions",
    "PrepareReport",
    "Sample",
    "SampleBatch",
    "SourceSummary",
    "cut_samples",
    "prepare",
    "read_samples",
]
