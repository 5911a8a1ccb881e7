#!/bin/sh
# From genomes to predictions: which chunks are of viruses?
#
#   examples/virus.sh VIRUS_DIR NONVIRUS_DIR [TEST_VIRUS_DIR TEST_NONVIRUS_DIR]
#
# Folders of FASTA files, one genome per file, plain or compressed. Every genome is scored by a head that was fitted to
# genomes of other groups, once for each seed, each of which deals the groups out to other folds; with two more folders
# also those. It ends with how contigs are called, by length. Settings are environment variables:
#
#   MODELS     tnf,aac_dpc   models or directories of checkpoints, in the order of the columns
#   MANIFEST   -             table with the columns file and split_group: genomes of one group (a genus) stay together
#   OUT        build/virus   where everything is written, the store too
#   LENGTH     500           bases of a chunk
#   HEADS      linear        heads to train: linear, mlp, trees; the first one predicts
#   SEEDS      1 2 3 4 5     folds and a training each
set -eu

if [ $# -ne 2 ] && [ $# -ne 4 ]; then
    sed -n '2,17s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
VIRUS=$1 NONVIRUS=$2 TEST_VIRUS=${3:-} TEST_NONVIRUS=${4:-}
MODELS=${MODELS:-tnf,aac_dpc} OUT=${OUT:-build/virus} LENGTH=${LENGTH:-500} SEEDS=${SEEDS:-1 2 3 4 5}
MANIFEST=${MANIFEST:-} HEADS=${HEADS:-linear}
PATH=$(dirname "$0")/../.venv/bin:$PATH
STORE=$OUT/store
FIRST=${HEADS%% *}-${SEEDS%% *}
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

for HEAD in $HEADS; do
    for SEED in $SEEDS; do
        echo "# train, and score out of fold: $HEAD, seed $SEED"
        embedstore train "$OUT/features.zarr" --force --groups "$OUT/groups.tsv" --head "$HEAD" --seed "$SEED" \
            --quiet -o "$OUT/$HEAD-$SEED"
        if [ -n "$TEST_VIRUS" ]; then
            echo "# evaluate: on the other folders"
            embedstore evaluate "$OUT/test_samples/samples.tsv" --classifier "$OUT/$HEAD-$SEED" \
                --models "$MODELS" --fill --store "$STORE" --quiet -o "$OUT/test-$HEAD-$SEED"
        fi
    done
done

echo "# predict: the sequences of the virus folder, as if nothing were known of them; those called virus as FASTA, and"
echo "# scores along them (a bedGraph for genome browsers, and parts of one call)"
embedstore predict "$VIRUS" --classifier "$OUT/$FIRST" --models "$MODELS" --store "$STORE" \
    --fdr 0.2 --write-called --track -o "$OUT/predictions"

if [ "$MODELS" != "${MODELS%%,*}" ]; then
    echo "# compare: each model alone, and all together, on the same samples and folds"
    SETS=$(printf '%s' "$MODELS" | tr , '\n' | sed 's/^/--models /')
    # shellcheck disable=SC2086 # one argument a word is meant
    embedstore compare "$OUT/samples/samples.tsv" $SETS --models "$MODELS" --groups "$OUT/groups.tsv" \
        --store "$STORE" --quiet -o "$OUT/comparison"
fi

echo "# genomes of other groups than those fitted to: means of the seeds, and AUROC of each seed"
python3 - "$OUT" "$HEADS" "$SEEDS" <<'END'
import json, pathlib, sys

out, heads, seeds = pathlib.Path(sys.argv[1]), sys.argv[2].split(), sys.argv[3].split()


def line(name, found):
    def mean(key):
        return sum(one[key] for one in found) / len(found)

    each = " ".join(f"{one['auroc']:.3f}" for one in found)
    print(f"{name:32} AUROC {mean('auroc'):.3f}  recall {mean('recall'):.3f}  "
          f"false positive rate {mean('false_positive_rate'):.3f}   {each}")


def line_of_calibration(found):
    """How far the scores of contigs are from being probabilities, before calibration and by that of the other folds."""
    parts = [("before", "before_calibration"), ("after", "calibrated_by_others")]
    if all(key in one for one in found for _, key in parts):
        for title, key in parts:
            brier, ece = (sum(one[key][f"{number}_balanced"] for one in found) / len(found) for number in ("brier", "ece"))
            print(f"{'    ' + title + ' calibration':32} Brier {brier:.3f}  ECE {ece:.3f}")


for head in heads:
    for title, read in (
        ("out of fold", lambda seed: json.loads((out / f"{head}-{seed}/classifier.json").read_text())["about"]["test"]),
        ("other folders", lambda seed: json.loads((out / f"test-{head}-{seed}/evaluation.json").read_text())),
    ):
        if title == "other folders" and not (out / f"test-{head}-{seeds[0]}").is_dir():
            continue
        print(f"{head}, {title}")
        found = [read(seed) for seed in seeds]
        line("  samples", [one["positive"] for one in found])
        for place, part in enumerate(found[0]["contigs"]):
            contigs = [one["contigs"][place] for one in found]
            line(f"  contigs of {part['length_bases']:,} bases", [one["positive"] for one in contigs])
            line_of_calibration(contigs)
END
echo "# reports"
ls "$OUT"/*/*.html
