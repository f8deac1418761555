#!/usr/bin/env bash
# install.sh PART...: installs what a part of the tests needs and the machine lacks.
# The parts: mount, strace, network, copying, replication, blocks, suites, small-tree, whole-tree.
#
# Packages come from the machine's own registries, by their ordinary clients. What cargo builds, and what is
# downloaded as input, goes to the cache (see lib.sh), outside of the work tree, so that it is done once.

source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# A registry now and then drops a connection; an answer that stays the same for three attempts is the answer.
with_retry() {
    local attempt
    for attempt in 1 2 3; do
        "$@" && return
        say "attempt $attempt failed: $*"
    done
    fail "could not run: $*"
}

missing_packages=()

# want_command COMMAND PACKAGE. Some machines have the command from elsewhere; then the package is not needed.
want_command() {
    PATH=$PATH:/usr/sbin:/sbin command -v "$1" >/dev/null || missing_packages+=("$2")
}

want_package() {
    dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q 'ok installed' || missing_packages+=("$1")
}

apt_quietly() {
    DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 "$@" >/dev/null
}

# Once a run: lists that are a day old may name versions that are gone.
update_package_lists() {
    [ -n "${lists_are_new:-}" ] || with_retry apt_quietly update
    lists_are_new=yes
}

install_missing_packages() {
    [ ${#missing_packages[@]} -gt 0 ] || return 0
    say "installing ${missing_packages[*]}"
    update_package_lists
    # apt complains of a missing apt-utils for each package; nothing here is asked interactively.
    with_retry apt_quietly install --no-install-recommends "${missing_packages[@]}" \
        2> >(grep -v 'apt-utils is not installed' >&2)
    missing_packages=()
}

# cargo_tool CRATE VERSION: built once per version.
cargo_tool() {
    local crate=$1 version=$2
    [ -x "$(tool "$crate" "$version")" ] && return
    say "building $crate $version"
    # A target directory that the caller chose for mezzo is not the place for this.
    with_retry env -u CARGO_TARGET_DIR cargo install --quiet --locked "$crate" --version "$version" \
        --root "$CACHE/$crate-$version"
}

# pjdfstest acts as these users, who own nothing.
make_user() {
    id "$1" >/dev/null 2>&1 || useradd --no-create-home --user-group --shell /usr/sbin/nologin "$1"
}

# downloaded_source PACKAGE TARBALL: a Debian package of sources is a package that holds a tarball.
download_source() {
    local package=$1 pattern=$2
    [ -n "$(find "$CACHE/sources" -name "$pattern" 2>/dev/null)" ] && return
    say "downloading $package"
    local into
    into=$(mktemp -d "${TMPDIR:-/tmp}/mezzo-download.XXXXXX")
    update_package_lists
    # As root, apt would warn that its own user cannot write there.
    (cd "$into" && with_retry apt-get -qq -o APT::Sandbox::User=root download "$package")
    dpkg-deb --fsys-tarfile "$into/$package"_*.deb | tar -x -C "$into" ./usr/src
    mkdir -p "$CACHE/sources"
    # Renamed into place when it is whole, so that an interrupted download is not taken for one.
    local tarball
    tarball=$(find "$into/usr/src" -type f -name "$pattern")
    cp "$tarball" "$CACHE/sources/.partial"
    mv "$CACHE/sources/.partial" "$CACHE/sources/$(basename "$tarball")"
    rm -r "$into"
}

install_mount() {
    want_command fusermount3 fuse3
    want_command mkfs.ext4 e2fsprogs
    want_command mkfs.xfs xfsprogs
    want_command setpriv util-linux
    want_command mount mount
    want_command git git
    want_command python3 python3
    install_missing_packages
}

install_strace() {
    want_command strace strace
    install_missing_packages
}

install_network() {
    want_command ip iproute2
    install_missing_packages
}

install_copying() {
    want_command rsync rsync
    install_missing_packages
}

# Other programs that keep two trees alike.
install_replication() {
    want_command rsync rsync
    want_command unison unison
    want_command lsyncd lsyncd
    want_command syncthing syncthing
    want_command openssl openssl
    install_missing_packages
}

# Debian has it in one package or another, by its release.
install_blocks() {
    want_command qemu-storage-daemon qemu-system-common
    install_missing_packages
    want_command qemu-storage-daemon qemu-utils
    install_missing_packages
}

install_suites() {
    want_command stress-ng stress-ng
    want_command unison unison
    install_missing_packages
    make_user tests
    make_user pjdfstest
    cargo_tool pjdfstest 0.2.2
    cargo_tool fsx 0.3.2
}

install_tree_tools() {
    want_command setfattr attr
    want_command setfacl acl
    want_command setcap libcap2-bin
    want_command xz xz-utils
    want_command make make
    want_command gcc gcc
    want_command sqlite3 sqlite3
}

install_small-tree() {
    install_tree_tools
    # uClibc-ng wants the kernel's headers.
    want_package linux-libc-dev
    install_missing_packages
    download_source uclibc-source 'uClibc-ng-*.tar.xz'
}

install_whole-tree() {
    install_tree_tools
    want_command flex flex
    want_command bison bison
    want_command bc bc
    want_package libelf-dev
    want_package libssl-dev
    install_missing_packages
    download_source linux-source-6.1 'linux-source-6.1.tar.xz'
}

for part in "$@"; do
    declare -F "install_$part" >/dev/null || fail "install.sh knows no part $part"
    "install_$part"
done
