#!/bin/sh
# Installs greway from this folder, or takes it away again. It starts nothing and enables nothing.
#
#   ./install.sh [--prefix /usr/local] [--destdir DIR]
#   ./install.sh --remove [--prefix /usr/local]       tunnels, shims and adoptions go too; /etc/greway stays
set -eu
cd "$(dirname "$0")"

prefix=/usr/local
destdir=
remove=
while [ $# -gt 0 ]; do
    case $1 in
        --prefix) prefix=${2:?--prefix needs a folder}; shift 2 ;;
        --destdir) destdir=${2:?--destdir needs a folder}; shift 2 ;;
        --remove) remove=yes; shift ;;
        *) sed -n '2,5s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
    esac
done
case $prefix in
    /*) ;;
    *) printf '%s\n' "install.sh: --prefix $prefix: a path from the root is needed, /usr/local for example" >&2; exit 2 ;;
esac

# What is installed: the file here, the place there, its mode.
files() {
    printf '%s\n' "bin/greway bin/greway 755"
    for unit in systemd/*; do printf '%s\n' "$unit lib/systemd/system/${unit##*/} 644"; done
    for page in man/man*/*; do printf '%s\n' "$page share/$page 644"; done
    printf '%s\n' \
        "completions/greway.bash share/bash-completion/completions/greway 644" \
        "completions/_greway share/zsh/site-functions/_greway 644" \
        "completions/greway.fish share/fish/vendor_completions.d/greway.fish 644"
}

reload() {
    if [ -z "$destdir" ] && [ -d /run/systemd/system ]; then
        systemctl daemon-reload || true
        # Daemons that run go on as the new program; they take over their tunnels.
        systemctl try-restart greway.service greway-nm.service 'greway-net-*.service' || true
    fi
}

if [ -n "$remove" ]; then
    if [ -z "$destdir" ] && [ -x "$prefix/bin/greway" ]; then "$prefix/bin/greway" purge --keep-config; fi
    files | while read -r _ place _; do rm -f "$destdir$prefix/$place"; done
    reload
    exit
fi

files | while read -r file place mode; do
    to=$destdir$prefix/$place
    mkdir -p "${to%/*}"
    case $file in
        # Units name the program by its path.
        systemd/*) sed "s#/usr/bin/greway#$prefix/bin/greway#" "$file" >"$to.new" ;;
        *) cp "$file" "$to.new" ;;
    esac
    chmod "$mode" "$to.new"
    # Renamed, so that a program that runs is not written to.
    mv "$to.new" "$to"
done
reload
printf '%s\n' "installed: $prefix/bin/greway; nothing was started or enabled, README.md says how to go on"
