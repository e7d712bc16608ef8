#!/usr/bin/env bash
# Carries a file that is larger than a transfer may be: cuts it into pieces, and joins them where they arrive, one or
# more a call, in any order.
# Usage: bench/gpu/pieces.sh cut FILE FOLDER [SIZE], and bench/gpu/pieces.sh join FOLDER PLACE
set -euo pipefail
case ${1:-} in
cut)
    name=$(basename "$2")
    mkdir -p "$3"
    sha256sum <"$2" >"$3/$name.sha256"
    split --bytes "${4:-28M}" --numeric-suffixes --suffix-length 3 "$2" "$3/$name.piece."
    ls -l "$3"
    ;;
join)
    mkdir -p "$3"
    cp "$2"/* "$3"
    cd "$3"
    for sum in *.sha256; do
        name=${sum%.sha256}
        if cat "$name".piece.* | sha256sum | cmp --silent - "$sum"; then
            cat "$name".piece.* >"$name"
            echo "$name is complete."
        else
            echo "$(ls "$name".piece.* | wc -l) pieces of $name are here, and not all."
        fi
    done
    ;;
*)
    sed -n 2,4p "$0" >&2
    exit 2
    ;;
esac
