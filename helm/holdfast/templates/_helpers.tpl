{{- define "holdfast.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" -}}
{{- end -}}

{{/* At most 50 characters: the names of Jobs and of the others add to it. */}}
{{- define "holdfast.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else if contains (include "holdfast.name" .) .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "holdfast.name" .) | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "holdfast.selector" -}}
app.kubernetes.io/name: {{ include "holdfast.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "holdfast.labels" -}}
{{ include "holdfast.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/component: backup
app.kubernetes.io/part-of: holdfast
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* Labels of a pod that calls the service: the trigger, the test. The labels above would make it an endpoint. */}}
{{- define "holdfast.client.labels" -}}
app.kubernetes.io/name: {{ include "holdfast.name" . }}-client
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/part-of: holdfast
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "holdfast.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "holdfast.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "holdfast.fullname" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{/* The service account of the trigger and the test: it has the role `scheduler`. */}}
{{- define "holdfast.triggerAccountName" -}}
{{ include "holdfast.fullname" . }}-trigger
{{- end -}}

{{- define "holdfast.tlsSecret" -}}
{{- if .Values.tls.certManager.enabled -}}
{{ include "holdfast.fullname" . }}-tls
{{- else -}}
{{ .Values.tls.existingSecret }}
{{- end -}}
{{- end -}}

{{/* Whether something can call from here: with a token of Kubernetes, or one of a Secret. */}}
{{- define "holdfast.hasClient" -}}
{{- if or .Values.auth.tokenReview.enabled .Values.cronjob.tokenSecret -}}true{{- end -}}
{{- end -}}

{{- define "holdfast.hasFiles" -}}
{{- if or .Values.catalog .Values.encryption.recipients .Values.trustedCertificates (and .Values.auth.jwt.enabled .Values.auth.jwt.jwks) -}}true{{- end -}}
{{- end -}}

{{/* The port of an address: what it names, or that of its scheme. */}}
{{- define "holdfast.port" -}}
{{- $url := urlParse . -}}
{{- $named := regexFind ":[0-9]+$" $url.host -}}
{{- if $named -}}{{ trimPrefix ":" $named }}{{- else if eq $url.scheme "http" -}}80{{- else -}}443{{- end -}}
{{- end -}}

{{/* What values cannot be together. Values that are wrong by themselves are refused by values.schema.json. */}}
{{- define "holdfast.validate" -}}
{{- $v := .Values -}}
{{- range $name, $value := dict
    "image.repository" $v.image.repository
    "database.host" $v.database.host
    "database.name" $v.database.name
    "database.existingSecret" $v.database.existingSecret
    "sealKey.existingSecret" $v.sealKey.existingSecret -}}
{{- if not $value -}}{{- fail (printf "%s is required" $name) -}}{{- end -}}
{{- end -}}
{{- if and $v.tls.enabled (not $v.tls.existingSecret) (not $v.tls.certManager.enabled) -}}
{{- fail "tls.existingSecret is required, or tls.certManager.enabled=true; without TLS, tls.enabled=false and iKnow.plaintext=true where a mesh encrypts" -}}
{{- end -}}
{{- if and $v.tls.certManager.enabled (not $v.tls.certManager.issuerRef.name) -}}
{{- fail "tls.certManager.issuerRef.name is required with tls.certManager.enabled=true" -}}
{{- end -}}
{{- if and (not $v.tls.enabled) (not $v.iKnow.plaintext) -}}
{{- fail "tls.enabled=false sends backups and credentials as plain text; iKnow.plaintext=true accepts that where a mesh encrypts" -}}
{{- end -}}
{{- if and (ne $v.database.sslMode "verify-full") (not $v.iKnow.plaintext) -}}
{{- fail (printf "database.sslMode=%s does not prove which server it is; use verify-full, or iKnow.plaintext=true where a mesh encrypts" $v.database.sslMode) -}}
{{- end -}}
{{- if not (or $v.auth.tokenReview.enabled $v.auth.jwt.enabled $v.auth.mtls.enabled $v.auth.token.existingSecret) -}}
{{- fail "auth: nobody could call; enable auth.tokenReview, auth.jwt or auth.mtls, or name auth.token.existingSecret" -}}
{{- end -}}
{{- if $v.auth.jwt.enabled -}}
{{- if or (not $v.auth.jwt.issuer) (not $v.auth.jwt.audience) -}}{{- fail "auth.jwt.issuer and auth.jwt.audience are required with auth.jwt.enabled=true" -}}{{- end -}}
{{- if eq (empty $v.auth.jwt.jwksUrl) (empty $v.auth.jwt.jwks) -}}{{- fail "auth.jwt.jwksUrl or auth.jwt.jwks is required with auth.jwt.enabled=true, and not both" -}}{{- end -}}
{{- end -}}
{{- if and $v.auth.mtls.enabled (not (and $v.tls.enabled $v.auth.mtls.caSecret)) -}}
{{- fail "auth.mtls.caSecret and tls.enabled=true are required with auth.mtls.enabled=true" -}}
{{- end -}}
{{- if eq $v.lock.mode "remote" -}}
{{- if or (not $v.lock.remote.endpoint) (not $v.lock.remote.existingSecret) -}}{{- fail "lock.remote.endpoint and lock.remote.existingSecret are required with lock.mode=remote" -}}{{- end -}}
{{- if $v.auth.updateToken.existingSecret -}}{{- fail "auth.updateToken.existingSecret is for lock.mode=embedded: with remote, the update-service hosts the lock" -}}{{- end -}}
{{- else if or $v.lock.remote.endpoint $v.lock.remote.existingSecret -}}
{{- fail "lock.remote.endpoint is given, but lock.mode is embedded" -}}
{{- end -}}
{{- if ne (empty $v.webhook.url) (empty $v.webhook.existingSecret) -}}{{- fail "webhook.url and webhook.existingSecret need each other" -}}{{- end -}}
{{- if hasPrefix "s3://" $v.archive.url -}}
{{- if not $v.archive.existingSecret -}}{{- fail "archive.existingSecret is required for an archive in a bucket" -}}{{- end -}}
{{- if $v.archive.existingClaim -}}{{- fail "archive.existingClaim is for archive.url=file:///archive" -}}{{- end -}}
{{- else if $v.archive.url -}}
{{- if not $v.archive.existingClaim -}}{{- fail "archive.existingClaim is required for archive.url=file:///archive: the volume that is mounted there" -}}{{- end -}}
{{- else if or $v.archive.existingClaim $v.archive.existingSecret $v.archive.adopt $v.archive.maxCount -}}
{{- fail "archive.url is required with the other settings of an archive" -}}
{{- end -}}
{{- if and $v.otel.enabled (not $v.otel.endpoint) -}}{{- fail "otel.endpoint is required with otel.enabled=true" -}}{{- end -}}
{{- if and (eq $v.schedule.driver "cronjob") (not (include "holdfast.hasClient" .)) -}}
{{- fail "schedule.driver=cronjob needs auth.tokenReview.enabled=true or cronjob.tokenSecret, by which it proves who it is" -}}
{{- end -}}
{{- if and (or $v.metrics.serviceMonitor.enabled $v.metrics.prometheusRule.enabled) (not $v.metrics.enabled) -}}
{{- fail "metrics.enabled=true is required with metrics.serviceMonitor or metrics.prometheusRule" -}}
{{- end -}}
{{- end -}}
