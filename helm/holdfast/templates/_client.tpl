{{/* The pod of a call to the service: the trigger, the test. Context: a dict of `root`, `name`, `args`, and `env` (a list). */}}
{{- define "holdfast.client.pod" -}}
{{- $v := .root.Values -}}
serviceAccountName: {{ include "holdfast.triggerAccountName" .root }}
automountServiceAccountToken: false
enableServiceLinks: false
restartPolicy: Never
{{- with $v.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- toYaml $v.podSecurityContext | nindent 2 }}
containers:
  - name: {{ .name }}
    image: {{ include "holdfast.image" .root | quote }}
    imagePullPolicy: {{ $v.image.pullPolicy }}
    args:
      {{- toYaml .args | nindent 6 }}
    securityContext:
      {{- toYaml $v.securityContext | nindent 6 }}
    env:
      - name: HOLDFAST_ENDPOINT
        value: {{ printf "%s://%s.%s.svc:%v" (ternary "https" "http" $v.tls.enabled) (include "holdfast.fullname" .root) .root.Release.Namespace $v.service.port }}
      {{- if and $v.tls.enabled $v.tls.caKey }}
      - name: HOLDFAST_CA_FILE
        value: /etc/holdfast/ca/ca.crt
      {{- end }}
      {{- with .env }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    resources:
      {{- toYaml $v.cronjob.resources | nindent 6 }}
    volumeMounts:
      - name: token
        mountPath: /var/run/secrets/holdfast
        readOnly: true
      {{- if and $v.tls.enabled $v.tls.caKey }}
      - name: ca
        mountPath: /etc/holdfast/ca
        readOnly: true
      {{- end }}
volumes:
  - name: token
    {{- if $v.cronjob.tokenSecret }}
    secret:
      secretName: {{ $v.cronjob.tokenSecret }}
      defaultMode: 0440
      items:
        - key: {{ $v.cronjob.tokenKey }}
          path: token
    {{- else }}
    projected:
      defaultMode: 0440
      sources:
        - serviceAccountToken:
            path: token
            audience: {{ $v.auth.tokenReview.audience }}
            expirationSeconds: 3600
    {{- end }}
  {{- if and $v.tls.enabled $v.tls.caKey }}
  # The authority alone: the key of the service stays with it.
  - name: ca
    secret:
      secretName: {{ include "holdfast.tlsSecret" .root }}
      defaultMode: 0440
      items:
        - key: {{ $v.tls.caKey }}
          path: ca.crt
  {{- end }}
{{- end -}}
