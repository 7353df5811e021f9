#!/bin/sh
# Install a checkout into a virtual environment: install.sh PYTHON VENV WHAT.
# pip is quiet; a failure is one line that names the package and the next step.
python=$1 venv=$2 what=$3
log=$venv/install.log

fail() {
    echo "make: $1" >&2
    exit 1
}

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    fail "embedsearch needs Python 3.11 or newer, found $("$python" -V 2>&1): make demo PYTHON=python3.12"
if [ ! -x "$venv/bin/python" ]; then
    "$python" -c 'import ensurepip' 2>/dev/null ||
        fail "$python has no ensurepip: apt-get install python3-venv, or another Python: make demo PYTHON=python3.12"
    "$python" -m venv "$venv" 2>/dev/null || {
        rm -rf "$venv"
        fail "no virtual environment could be made in $venv: is the disk full, or read-only?"
    }
fi
echo "Installing $what into $venv (some minutes, several GB) ..."
output=$("$venv/bin/python" -m pip install --quiet --quiet --no-input \
    --disable-pip-version-check --retries 2 -e "$what" 2>&1) && exit 0
printf '%s\n' "$output" >"$log" 2>/dev/null
case $output in
*'No space left on device'* | *'Errno 28'*)
    fail "no space left on the disk: free about 8 GB, then run the same command again" ;;
esac
package=$(printf '%s\n' "$output" |
    sed -n 's/.*No matching distribution found for \([^ ;]*\).*/\1/p' | head -n 1)
[ -n "$package" ] &&
    fail "cannot install $package: is the package index reached from here? Details: $log"
fail "cannot install $what: $(printf '%s\n' "$output" | grep -i error | tail -n 1) Details: $log"
