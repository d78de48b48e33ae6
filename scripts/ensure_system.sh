#!/usr/bin/env bash
# Looks for the Debian packages that a virtual environment, the tests and the demo need.
# As root on a machine with apt-get, installs what is missing; otherwise says what is
# missing and what that costs, and goes on: only the virtual environment is essential,
# and scripts/venv.sh says so itself when it can't be made.
#
# With "tests" as its argument it also looks for what the tests alone use; promtool and nginx come
# into .cache/bin, since their packages would start servers, and receivers of events that are built
# with Go where there is one.
set -euo pipefail
cd "$(dirname "$0")/.."

missing=()
costs=()

need() { # package, what is lost without it, command that shows whether it is there
  local package=$1 cost=$2
  shift 2
  if ! "$@" >/dev/null 2>&1; then
    missing+=("$package")
    costs+=("$cost")
  fi
}

find_postgres() { # Debian keeps the server's programs off the path
  command -v initdb || compgen -G '/usr/lib/postgresql/*/bin/initdb'
}

find_haproxy() { # Debian keeps it where only root looks
  command -v haproxy || test -x /usr/sbin/haproxy
}

find_promtool() {
  command -v promtool || test -x .cache/bin/promtool
}

find_nginx() {
  command -v nginx || test -x /usr/sbin/nginx || test -x .cache/bin/nginx
}

# Installed, these packages would start a Prometheus and an nginx: one program is taken out of each.
fetch_program() { # package, path in it, folder
  local package=$1 path=$2 folder=$3
  (cd "$folder" && apt-get download -qq "$package") &&
    dpkg-deb --fsys-tarfile "$folder/$package"_*.deb | tar -x -C "$folder" ".$path" &&
    install -D -m 0755 "$folder$path" ".cache/bin/${path##*/}"
}

install_missing() {
  local package path wanted=() fetched=()
  for package in "${missing[@]}"; do
    case $package in
    prometheus) fetched+=("prometheus /usr/bin/promtool") ;;
    nginx) fetched+=("nginx /usr/sbin/nginx") ;;
    *) wanted+=("$package") ;;
    esac
  done
  # The tests start PostgreSQL themselves, in folders of their own: Debian's package shall not start
  # a server beside them.
  if [[ " ${wanted[*]} " == *" postgresql "* && ! -e /etc/postgresql-common/createcluster.conf ]]; then
    mkdir -p /etc/postgresql-common
    echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.conf
  fi
  apt-get update -qq || return
  if ((${#wanted[@]})); then
    apt-get install -y -qq --no-install-recommends -o Dpkg::Options::=--force-confold \
      "${wanted[@]}" || return
  fi
  for package in "${fetched[@]}"; do
    read -r package path <<<"$package"
    fetch_program "$package" "$path" "$1" || return
  done
}

python=$(scripts/python.sh)
version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
venv_package=python3-venv
if [[ $python == /usr/bin/python3.* ]]; then venv_package=$version-venv; fi

need "$venv_package" "no virtual environment, so nothing runs" "$python" -c 'import ensurepip, venv'
need openssl "tests that let openssl judge certificates and CRLs are skipped" command -v openssl
need curl "tests and examples that call the server with curl are skipped" command -v curl
if [[ ${1:-} == tests ]]; then
  need postgresql "tests on PostgreSQL are skipped" find_postgres
  need haproxy "tests behind a load balancer are skipped" find_haproxy
  need iproute2 "tests in network namespaces are skipped" command -v ip
  need rsyslog "events aren't sent to a real syslog server" test -x /usr/sbin/rsyslogd
  need rsyslog-gnutls "events aren't sent to a syslog server over TLS" \
    compgen -G '/usr/lib/*/rsyslog/lmnsd_gtls.so'
  need jq "the operations guide's commands are not run" command -v jq
  need systemd "nobody but us reads the systemd units" command -v systemd-analyze
  need util-linux "server and agent are not tried behind their units' walls" command -v setpriv
  need libseccomp2 "server and agent are not tried behind their units' walls" \
    "$python" -c 'import ctypes; ctypes.CDLL("libseccomp.so.2")'
  need nginx "nginx doesn't ask us about requests" find_nginx
  need prometheus "nobody but us reads the alerts and the dashboard's queries" find_promtool
fi
need ca-certificates "downloads over TLS may fail" test -s /etc/ssl/certs/ca-certificates.crt

if [[ ${1:-} == tests ]]; then
  # Once, and before the tests: a minute of building is longer than one of them may take.
  for receiver in kfake otlpreceiver; do
    scripts/build_receiver.sh "$receiver" || echo "events aren't sent to a real $receiver" >&2
  done
fi

if ((${#missing[@]} == 0)); then exit 0; fi

if [[ $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
  echo "installing Debian packages: ${missing[*]}" >&2
  export DEBIAN_FRONTEND=noninteractive UCF_FORCE_CONFFOLD=1
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  if install_missing "$work" </dev/null >"$work/log" 2>&1; then exit 0; fi
  tail -n 5 "$work/log" >&2
  echo "could not install them; going on without" >&2
fi

for index in "${!missing[@]}"; do
  echo "missing Debian package ${missing[$index]}: ${costs[$index]}" >&2
done
echo "to mend it: apt-get install ${missing[*]}" >&2
