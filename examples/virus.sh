#!/bin/sh
# From genomes to predictions: which chunks are of viruses?
#
#   examples/virus.sh VIRUS_DIR NONVIRUS_DIR [TEST_VIRUS_DIR TEST_NONVIRUS_DIR]
#
# Folders of FASTA files, one genome per file, plain or compressed. Both networks are trained on some of the genomes and
# tested on others, once for each seed, since a single split tests few genomes; with two more folders also on those.
# Settings are environment variables:
#
#   MODELS     tnf,aac_dpc   models or directories of checkpoints, in the order of the columns
#   MANIFEST   -             table with the columns file and split_group: genomes of one group (a genus) stay together
#   OUT        build/virus   where everything is written, the store too
#   LENGTH     500           bases of a chunk
#   SEEDS      1 2 3 4 5     a split and a training each
#   INPUT_DROPOUT  0.8       of mlp: genomes are few, so it should use many features, not a few
set -eu

if [ $# -ne 2 ] && [ $# -ne 4 ]; then
    sed -n '2,16s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
VIRUS=$1 NONVIRUS=$2 TEST_VIRUS=${3:-} TEST_NONVIRUS=${4:-}
MODELS=${MODELS:-tnf,aac_dpc} OUT=${OUT:-build/virus} LENGTH=${LENGTH:-500} SEEDS=${SEEDS:-1 2 3 4 5}
MANIFEST=${MANIFEST:-} INPUT_DROPOUT=${INPUT_DROPOUT:-0.8}
PATH=$(dirname "$0")/../.venv/bin:$PATH
STORE=$OUT/store
FIRST_SEED=${SEEDS%% *}
mkdir -p "$OUT"

echo "# prepare: cut genomes into chunks and stop-free frames"
embedstore prepare "virus=$VIRUS" "nonvirus=$NONVIRUS" --length "$LENGTH" -o "$OUT/samples"

# A cluster for each group of samples: what the manifest says, else the genome itself.
awk -F'\t' '
    FILENAME == ARGV[1] && FNR == 1 { for (i = 1; i <= NF; i++) place[$i] = i; next }
    FILENAME == ARGV[1] { name = $place["file"]; sub(/.*\//, "", name); sub(/\.(fna|fa|fasta)(\.gz)?$/, "", name)
                          if ($place["split_group"] != "") cluster[name] = $place["split_group"]; next }
    FNR == 1 { for (i = 1; i <= NF; i++) column[$i] = i; print "group\tcluster"; next }
    { group = $column["group"] }
    !(group in seen) { seen[group] = 1; print group "\t" (group in cluster ? cluster[group] : group) }
' "${MANIFEST:-/dev/null}" "$OUT/samples/samples.tsv" > "$OUT/groups.tsv"

echo "# fill and merge: the vectors of all samples, side by side"
embedstore merge "$OUT/samples/samples.tsv" --models "$MODELS" --fill --store "$STORE" -o "$OUT/features.zarr"
if [ -n "$TEST_VIRUS" ]; then
    embedstore prepare "virus=$TEST_VIRUS" "nonvirus=$TEST_NONVIRUS" --length "$LENGTH" -o "$OUT/test_samples" --quiet
fi

for NETWORK in linear mlp; do
    for SEED in $SEEDS; do
        DROPOUT=$INPUT_DROPOUT
        [ $NETWORK = mlp ] || DROPOUT=0
        echo "# train and test: $NETWORK, seed $SEED"
        embedstore train "$OUT/features.zarr" --force --groups "$OUT/groups.tsv" --network $NETWORK --seed "$SEED" \
            --input-dropout "$DROPOUT" --quiet -o "$OUT/$NETWORK-$SEED"
        if [ -n "$TEST_VIRUS" ]; then
            echo "# evaluate: on the other folders"
            embedstore evaluate "$OUT/test_samples/samples.tsv" --classifier "$OUT/$NETWORK-$SEED" \
                --models "$MODELS" --fill --store "$STORE" --quiet -o "$OUT/test-$NETWORK-$SEED"
        fi
    done
done

echo "# predict: the sequences of the virus folder, as if nothing were known of them"
embedstore predict "$VIRUS" --classifier "$OUT/mlp-$FIRST_SEED" --models "$MODELS" --store "$STORE" \
    -o "$OUT/predictions"

if [ "$MODELS" != "${MODELS%%,*}" ]; then
    echo "# compare: each model alone, and all together, on the same samples and splits"
    SETS=$(printf '%s' "$MODELS" | tr , '\n' | sed 's/^/--models /')
    # shellcheck disable=SC2086 # one argument a word is meant
    embedstore compare "$OUT/samples/samples.tsv" $SETS --models "$MODELS" --groups "$OUT/groups.tsv" \
        --network linear --store "$STORE" --quiet -o "$OUT/comparison"
fi

echo "# AUROC on genomes of other groups than those trained on, one number a seed"
python3 - "$OUT" $SEEDS <<'END'
import json, pathlib, sys

out, seeds = pathlib.Path(sys.argv[1]), sys.argv[2:]
for network in ("linear", "mlp"):
    for title, read in (
        ("held-out groups", lambda seed: json.loads((out / f"{network}-{seed}/classifier.json").read_text())["about"]["test"]),
        ("other folders", lambda seed: json.loads((out / f"test-{network}-{seed}/evaluation.json").read_text())),
    ):
        if title == "other folders" and not (out / f"test-{network}-{seeds[0]}").is_dir():
            continue
        found = [read(seed)["auroc"] for seed in seeds]
        each = " ".join(f"{auroc:.3f}" for auroc in found)
        print(f"{network:7} {title:16} mean {sum(found) / len(found):.3f}   {each}")
END
echo "# reports"
ls "$OUT"/*/*.html
