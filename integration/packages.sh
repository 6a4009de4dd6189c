#!/bin/sh
# Installs the Debian packages named as arguments that are not there yet, without starting their services.
set -eu

missing=
for package; do
	state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
	[ "$state" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" != 0 ]; then
	echo "packages missing:$missing: run this as root, or apt-get install them" >&2
	exit 1
fi

# Debian starts a daemon when it is installed, unless this file says no. The tests start their own.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
	trap 'rm -f "$policy"' EXIT
	trap 'exit 1' INT TERM
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
# Another copy of these tests may be installing: wait for it.
apt="apt-get -qq -o DPkg::Lock::Timeout=300"
# shellcheck disable=SC2086 # words are meant to split
$apt update && $apt install -y --no-install-recommends $missing >/dev/null
