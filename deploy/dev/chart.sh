#!/usr/bin/env bash
# The chart in helm/holdfast, checked without a cluster and without a network.
#
#   chart.sh install   builds helm, kubeconform and the schemas of Kubernetes, of fixed versions, where they are not there yet; it needs Go
#   chart.sh check     lint, schemas, what the chart has to refuse, what is made from it, names of the program, alerts
#   chart.sh renew     makes anew what is made from it: deploy/kubernetes/holdfast.yaml, the table in helm/holdfast/README.md
set -euo pipefail

helm_version=v3.20.2
kubeconform_version=v0.7.0
kubernetes=k8s.io/kubernetes@v1.34.1
operator=github.com/prometheus-operator/prometheus-operator@v0.85.0
cert_manager=github.com/cert-manager/cert-manager@v1.18.2

root=$(cd "$(dirname "$0")/../.." && pwd -P)
chart=$root/helm/holdfast
manifests=$root/deploy/kubernetes/holdfast.yaml
tests=$root/deploy/prometheus/alerts.test.yaml
program=${CARGO_TARGET_DIR:-$root/target}/debug/holdfast
cache=${XDG_CACHE_HOME:-$HOME/.cache}/holdfast/chart-1
helm=$cache/helm-$helm_version
kubeconform=$cache/kubeconform-$kubeconform_version
# What reads the files of another version is another one.
tool=$cache/chart-$(cat "$root"/deploy/dev/chart/{main.go,go.mod} | sha256sum | cut -c1-12)
schemas=$tool-schemas
promtool=$(command -v promtool || echo "$cache/promtool")

usage() { sed -n '4,6s/^# *//p' "$0" >&2; exit 2; }
say() { echo "==> $*"; }
skipped() { echo "SKIPPED: $*" >&2; }
failed=0
fail() { echo "chart.sh: $*" >&2; failed=1; }

# A program in Go, in $cache under its name only when it is whole.
built() { # name, directory, package
    local build=$cache/build.$$
    mkdir -p "$build"
    if ! (cd "$2" && GOBIN=$build GOFLAGS=-buildvcs=false go install "$3") 2>"$build/log"; then
        tail -n 20 "$build/log" >&2
        rm -rf "$build"
        return 1
    fi
    rm "$build/log"
    mv "$build"/* "$1"
    rmdir "$build"
}

directory() { go mod download -json "$1" | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p'; }

made_schemas() {
    local swagger crds build=$cache/build.$$
    swagger=$(directory "$kubernetes")/api/openapi-spec/swagger.json
    crds=("$(directory "$operator")/example/prometheus-operator-crd/monitoring.coreos.com_servicemonitors.yaml"
        "$(directory "$operator")/example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml"
        "$(directory "$cert_manager")/deploy/crds/crd-certificates.yaml")
    mkdir -p "$build"
    "$tool" schemas "$build" "$swagger" "${crds[@]}" || { rm -rf "$build"; return 1; }
    mv "$build" "$schemas"
}

# promtool comes with the server; taken out of its package, nothing is started.
unpacked_promtool() {
    command -v apt-get >/dev/null && command -v dpkg >/dev/null || return 1
    local build=$cache/build.$$
    mkdir -p "$build"
    (cd "$build" && apt-get -qq download prometheus && dpkg -x prometheus_*.deb .) >/dev/null 2>&1 &&
        mv "$build/usr/bin/promtool" "$promtool"
    rm -rf "$build"
    [[ -x $promtool ]]
}

install() {
    if [[ ! -x $helm || ! -x $kubeconform || ! -x $tool || ! -d $schemas ]]; then
        command -v go >/dev/null || { echo "Go is missing, so the chart is not checked: https://go.dev/dl" >&2; return; }
        mkdir -p "$cache"
        echo "Building helm, kubeconform and the schemas of Kubernetes: a few minutes, once."
        if ! { [[ -x $kubeconform ]] || built "$kubeconform" / "github.com/yannh/kubeconform/cmd/kubeconform@$kubeconform_version"; } ||
            ! { [[ -x $helm ]] || built "$helm" / "helm.sh/helm/v3/cmd/helm@$helm_version"; } ||
            ! { [[ -x $tool ]] || built "$tool" "$root/deploy/dev/chart" .; } ||
            ! { [[ -d $schemas ]] || made_schemas; }; then
            echo "What checks the chart could not be built; it is not checked." >&2
            return
        fi
    fi
    [[ -x $promtool ]] || unpacked_promtool || echo "There is no promtool, so the alerts are not checked: apt-get install prometheus" >&2
}

rendered() { "$helm" template holdfast "$chart" --namespace holdfast --kube-version "${kubernetes#*@}" "$@"; } # arguments of helm
of_kubernetes() { # the manifests for those who do not use Helm
    echo "# Holdfast without Helm: kubectl --namespace holdfast apply --filename deploy/kubernetes/holdfast.yaml"
    echo "#"
    echo "# It is what the chart makes of helm/holdfast/ci/default-values.yaml: replace the image, the database and the names of the Secrets, which"
    echo "# helm/holdfast/README.md tells how to make. Made by deploy/dev/chart.sh renew, so a copy is what to edit."
    rendered -f "$chart/ci/default-values.yaml" --skip-tests | sed -e '/^# Source: /d' -e '/helm.sh\/chart:/d' \
        -e 's/\(managed-by:\) Helm/\1 kubectl/' -e '/^  annotations:$/{N;N;/resource-policy/d}'
}
readme() { # what README.md has to be
    sed '/^| value | default | |$/,$d' "$chart/README.md"
    "$tool" values "$chart/values.yaml"
}

lint() {
    local values
    for values in "$chart"/ci/*-values.yaml; do
        "$helm" lint --quiet --strict --kube-version "${kubernetes#*@}" -f "$values" "$chart" || fail "lint with ${values##*/}"
        rendered -f "$values" | "$kubeconform" -strict -summary -schema-location "$schemas/{{.ResourceKind}}-{{.Group}}-{{.ResourceAPIVersion}}.json" ||
            fail "Kubernetes would not take what the chart makes of ${values##*/}"
    done
}

# Each line: what is set, and what the refusal has to name.
refusals() {
    cat <<'TABLE'
replicaCount=2                                      replicaCount
replicaCount=0                                      replicaCount
image.repository=                                   image.repository is required
image.repository=Registry/Holdfast                  image/repository
image.tag=latest                                    image/tag
image.digest=sha256:12                              image/digest
image.pullPolicy=Sometimes                          image/pullPolicy
database.host=                                      database.host is required
database.host=postgres://x                          database/host
database.name=                                      database.name is required
database.port=0                                     database/port
database.port=5432x                                 database/port
database.existingSecret=                            database.existingSecret is required
database.existingSecret=A_B                         database/existingSecret
database.password=secret                            password
database.state.password=secret                      password
database.sslMode=verify                             database/sslMode
database.sslMode=require                            database.sslMode=require
sealKey.existingSecret=                             sealKey.existingSecret is required
sealKey.value=0123                                  value
encryption.passphrase=secret                        passphrase
encryption.recipients=-----BEGIN_PGP_PRIVATE_KEY    encryption/recipients
auth.token.value=secret                             value
auth.tokenReview.audience=                          auth/tokenReview/audience
auth.tokenReview.enabled=false                      auth: nobody could call
auth.jwt.enabled=true                               auth.jwt.issuer
auth.jwt.jwksUrl=http://id.example.org              auth/jwt/jwksUrl
auth.mtls.enabled=true                              auth.mtls.caSecret
auth.roleBindings[0].role=admin                     auth/roleBindings/0/role
auth.roleBindings[0].subject=alice                  auth/roleBindings/0/subject
tls.existingSecret=                                 tls.existingSecret is required
tls.enabled=false                                   iKnow.plaintext
tls.certManager.enabled=true                        tls.certManager.issuerRef.name
tls.certManager.duration=90d                        tls/certManager/duration
config.log=                                         config/log
config.logFormat=xml                                config/logFormat
config.listenAddress=localhost                      config/listenAddress
config.operationTimeout=2                           config/operationTimeout
config.lostVolume=yes                               config/lostVolume
config.limits.maxUploadBytes=10Gi                   config/limits/maxUploadBytes
config.nonsense=1                                   nonsense
nonsense=1                                          nonsense
schedule.driver=both                                schedule/driver
cronjob.enabled=true                                enabled
cronjob.schedule=@daily                             cronjob/schedule
cronjob.timeZone=+02:00                             cronjob/timeZone
cronjob.lockWait=30                                 cronjob/lockWait
lock.mode=remote                                    lock.remote.endpoint
lock.mode=none                                      lock/mode
lock.ttl=5s                                         lock/ttl
lock.remote.endpoint=http://x                       lock/remote/endpoint
lock.remote.endpoint=https://x                      lock.mode is embedded
webhook.url=http://hooks.example.org                webhook/url
webhook.url=https://hooks.example.org               webhook.existingSecret
archive.url=ftp://x                                 archive/url
archive.url=file:///mnt/x                           archive/url
archive.url=file:///archive                         archive.existingClaim is required
archive.url=s3://backups                            archive.existingSecret is required
archive.maxCount=3                                  archive.url is required
archive.secretAccessKey=secret                      secretAccessKey
persistence.size=10                                 persistence/size
persistence.accessModes[0]=ReadOnlyMany             persistence/accessModes/0
persistence.hostPath=/srv                           hostPath
service.type=ExternalName                           service/type
metrics.port=8086                                   metrics/port
metrics.prometheusRule.rpoSeconds=0                 metrics/prometheusRule/rpoSeconds
otel.enabled=true                                   otel.endpoint is required
otel.protocol=http/protobuf                         otel/protocol
otel.sampler=some                                   otel/sampler
otel.samplerArg=1.5                                 otel/samplerArg
podDisruptionBudget.maxUnavailable=0                podDisruptionBudget/maxUnavailable
podSecurityContext.runAsUser=0                      podSecurityContext/runAsUser
securityContext.privileged=true                     securityContext/privileged
terminationGracePeriodSeconds=30                    terminationGracePeriodSeconds
TABLE
}

refuses() {
    local setting named answer type
    while read -r setting named; do
        type=--set
        [[ $setting != image.tag=* && $setting != otel.samplerArg=* && $setting != cronjob.lockWait=* && $setting != persistence.size=* ]] ||
            type=--set-string
        if answer=$(rendered -f "$chart/ci/default-values.yaml" "$type" "$setting" 2>&1); then
            fail "$setting is not refused"
        elif [[ $answer != *"$named"* ]]; then
            fail "$setting is refused, but the refusal does not name \`$named\`: $answer"
        fi
    done < <(refusals)
}

same() { # file, function that makes it
    "$2" | diff -u "$1" - || fail "${1#"$root"/} is not what the chart makes; deploy/dev/chart.sh renew"
}

# What the chart sets is what the program has: variables by name, and the arguments of its calls.
names() {
    [[ -x $program ]] || { skipped "names of variables; there is no $program"; return; }
    local values known arguments
    known=$({ "$program" serve --help; "$program" backup --help; } | grep -o 'HOLDFAST_[A-Z_]*' | sort -u)
    for values in "$chart"/ci/*-values.yaml; do
        comm -13 <(echo "$known") <(rendered -f "$values" | grep -oE '^ *(- name: )?HOLDFAST_[A-Z_]+' | grep -o 'HOLDFAST_.*' | sort -u) |
            sed 's/$/: the chart sets it, and the program does not know it/' | grep . && failed=1
    done
    for values in cronjob mesh; do
        while IFS= read -r arguments; do
            # With --help everything before it is read, and nothing done.
            # shellcheck disable=SC2086
            "$program" $arguments --help >/dev/null || fail "the program does not take: $arguments"
        done < <(rendered -f "$chart/ci/$values-values.yaml" | "$tool" arguments)
    done
}

alerts() {
    [[ -x $promtool ]] || { skipped "alerts; there is no promtool, chart.sh install unpacks it"; return; }
    "$promtool" check rules "$chart/files/alerts.yaml" >/dev/null || fail "alerts"
    "$promtool" test rules "$tests" || fail "tests of the alerts"
}

case ${1:-} in
install) install ;;
check)
    if [[ ! -x $helm || ! -x $kubeconform || ! -x $tool || ! -d $schemas ]]; then
        skipped "the chart; there is no helm, deploy/dev/chart.sh install builds it"
        exit 0
    fi
    say "Every values file, by helm lint and the schemas of $kubernetes" && lint
    say "What has to be refused: $(refusals | wc -l) wrong values" && refuses
    say "What is made from it" && same "$manifests" of_kubernetes && same "$chart/README.md" readme
    say "Names and arguments" && names
    say "Alerts" && alerts
    exit $failed
    ;;
renew)
    [[ -x $helm && -x $tool ]] || { echo "chart.sh: there is no helm; deploy/dev/chart.sh install builds it" >&2; exit 1; }
    of_kubernetes >"$manifests.new" && mv "$manifests.new" "$manifests"
    readme >"$chart/README.new" && mv "$chart/README.new" "$chart/README.md"
    ;;
*) usage ;;
esac
