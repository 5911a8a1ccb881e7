"""How fast models are on this machine: `tune` finds the best setting, `bench` compares with what the machine can do.

Both keep their results (`models.machine`): loading a model uses the setting, dry runs use the rate. `speed` holds both,
and what they measure with: a sample of files, or sequences of realistic lengths.
"""

from embedstore.measuring.speed import Benchmark, BuiltIn, Sample, Tuning, Workload, bench, sample_records, tune

__all__ = ["Benchmark", "BuiltIn", "Sample", "Tuning", "Workload", "bench", "sample_records", "tune"]
