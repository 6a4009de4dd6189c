#!/bin/sh
# Makes a Debian package of a levee that was built, and the list of what it is built from.
#
#   build.sh LEVEE VERSION FOLDER
#
# The same levee gives the same bytes: every time stamp is SOURCE_DATE_EPOCH (see https://reproducible-builds.org), which is that of the commit
# unless it is set, and every owner root.
set -eu
umask 022

levee=$1 version=$2 out=$3
here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../../.." && pwd)
: "${SOURCE_DATE_EPOCH:=$(git -C "$top" log -1 --format=%ct 2>/dev/null || echo 0)}"
export SOURCE_DATE_EPOCH
arch=$(dpkg --print-architecture)

# Debian's versions begin with a digit, and order what follows a ~ before what has none.
case $version in
v[0-9]*) debian=$(echo "${version#v}" | sed 's/-rc/~rc/; s/-/+/g') ;;
*) debian=0~git$(git -C "$top" log -1 --format=%cd --date=format:%Y%m%d 2>/dev/null || echo 0).$(echo "$version" | tr -c 'A-Za-z0-9.\n' '.') ;;
esac

root=$(mktemp -d)
chmod 0755 "$root"
trap 'rm -rf "$root"' EXIT
trap 'exit 1' INT TERM

file() { install -D -m "$1" "$2" "$root$3"; }
file 0755 "$levee" /usr/sbin/levee
file 0644 "$here/levee.service" /lib/systemd/system/levee.service
# levee.yaml in it is made by postinst, and the administrator's from then on.
install -d "$root/etc/levee"

doc=/usr/share/doc/levee
for page in "$top"/README.md "$top"/docs/*.md "$top"/docs/levee.example.yaml; do
	file 0644 "$page" "$doc/$(basename "$page")"
done
for extra in grafana-dashboard.json prometheus-rules.yaml; do
	file 0644 "$top/docs/$extra" "$doc/$extra"
done
{
	echo "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/"
	echo
	echo "Files: *"
	echo "Copyright: the authors of levee"
	echo "License: Apache-2.0"
	echo " On Debian systems the text is in /usr/share/common-licenses/Apache-2.0."
} >"$root/copyright"
file 0644 "$root/copyright" "$doc/copyright"
rm "$root/copyright"
for shell in bash:/usr/share/bash-completion/completions/levee zsh:/usr/share/zsh/vendor-completions/_levee fish:/usr/share/fish/vendor_completions.d/levee.fish; do
	install -d "$root$(dirname "${shell#*:}")"
	"$levee" completion "${shell%%:*}" >"$root${shell#*:}"
done
install -d "$root/usr/share/man/man8"
"$levee" man "$root/usr/share/man/man8"

# What it is built from, beside the package and in it.
(cd "$top" && ${GO:-go} run ./cmd/levee/package/sbom "$root/usr/sbin/levee" "$version") >"$root/sbom"
file 0644 "$root/sbom" "$doc/levee.cdx.json"
install -D -m 0644 "$root/sbom" "$out/levee_${debian}_$arch.cdx.json"
rm "$root/sbom"

find "$root" -type f -path '*/man/*' -exec gzip -9n {} +
size=$(find "$root" -type f -printf '%s\n' | awk '{ n += int(($1 + 1023) / 1024) } END { print n }')
install -d -m 0755 "$root/DEBIAN"
install -m 0755 "$here/debian/postinst" "$here/debian/prerm" "$here/debian/postrm" "$root/DEBIAN/"
cat >"$root/DEBIAN/control" <<CONTROL
Package: levee
Version: $debian
Section: net
Priority: optional
Architecture: $arch
Installed-Size: $size
Maintainer: the authors of levee <levee@example.org>
Suggests: nftables, ethtool, prometheus
Description: SYN proxy for Linux gateways
 Stands in front of servers that can't defend themselves against SYN floods:
 answers every SYN with a SYN cookie, opens a connection to the server only for
 clients that prove they exist, and splices the two halves.
CONTROL
(cd "$root" && find . -type f ! -path './DEBIAN/*' -printf '%P\n' | LC_ALL=C sort | xargs -d '\n' md5sum) >"$root/DEBIAN/md5sums"
find "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
dpkg-deb --root-owner-group -Zgzip --build "$root" "$out/levee_${debian}_$arch.deb" >/dev/null
echo "$out/levee_${debian}_$arch.deb"
