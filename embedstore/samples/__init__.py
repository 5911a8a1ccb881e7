"""Samples: what is classified, cut from genomes and contigs.

    files ─ sources ─▶ canonical DNA, unique ids, groups
          ─ codes ─▶ which genetic code each source has
          ─ cutting ─▶ chunks, many at once; stop-free frames with their keys; chunks dropped, by reason
          ─ outputs ─▶ samples.tsv (its columns: table), dna.fna, protein.faa, prepare.json

`preparing` runs these steps and reports on them.
"""

from embedstore.samples.codes import CodeTable, read_code_table
from embedstore.samples.cutting import CutSamples, PrepareOptions, SourceSummary, cut_samples
from embedstore.samples.preparing import PrepareCounts, PrepareReport, prepare
from embedstore.samples.seen import Seen, SeenCounts
from embedstore.samples.sources import LabelledInput
from embedstore.samples.table import Sample, SampleBatch, read_samples

__all__ = [
    "CodeTable",
    "CutSamples",
    "LabelledInput",
    "PrepareCounts",
    "PrepareOptions",
    "PrepareReport",
    "Sample",
    "SampleBatch",
    "Seen",
    "SeenCounts",
    "SourceSummary",
    "cut_samples",
    "prepare",
    "read_code_table",
    "read_samples",
]
