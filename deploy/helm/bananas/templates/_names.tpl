{{- define "bananas.name" -}}
{{- printf "%s" (ternary .Release.Name (printf "%s-bananas" .Release.Name) (contains "bananas" .Release.Name)) | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "bananas.selector" -}}
app.kubernetes.io/name: bananas
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "bananas.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{ include "bananas.selector" . }}
{{- end -}}

{{- define "bananas.image" -}}
{{- $repository := required "image.repository: name an image with your code, built on deploy/Dockerfile" .Values.image.repository -}}
{{- printf "%s:%s" $repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- end -}}

{{- define "bananas.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "bananas.name" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "bananas.redisSecret" -}}
{{- .Values.redis.existingSecret | default (printf "%s-redis" (include "bananas.name" .)) -}}
{{- end -}}

{{- define "bananas.tokensSecret" -}}
{{- .Values.api.tokens.existingSecret | default (printf "%s-tokens" (include "bananas.name" .)) -}}
{{- end -}}

{{/* The target, as words of a command. */}}
{{- define "bananas.target" -}}
- {{ required "app: name it as MODULE:APP" .Values.app | quote }}
{{- range .Values.modules }}
- {{ . | quote }}
{{- end }}
{{- end -}}

{{/* A setting as its variable has it: lists with commas, whole numbers without an exponent. */}}
{{- define "bananas.setting" -}}
{{- if kindIs "slice" . -}}
{{- join "," . -}}
{{- else if and (kindIs "float64" .) (eq (floor .) .) -}}
{{- int64 . -}}
{{- else -}}
{{- . -}}
{{- end -}}
{{- end -}}

{{/* The server, the settings, and what the code of the app needs. */}}
{{- define "bananas.env" -}}
env:
  - name: REDIS_URL
    valueFrom:
      secretKeyRef:
        name: {{ include "bananas.redisSecret" . }}
        key: {{ .Values.redis.key }}
  {{- with .shutdownTimeoutSeconds }}
  - name: BANANAS_SHUTDOWN_TIMEOUT
    value: {{ printf "%vs" . }}
  {{- end }}
  {{- if hasKey .Values.settings "redis_url" }}
  {{- fail "settings.redis_url: the server is named by redis.url or redis.existingSecret" }}
  {{- end }}
  {{- if hasKey .Values.settings "shutdown_timeout" }}
  {{- fail "settings.shutdown_timeout: workers and the API have shutdownTimeoutSeconds, and their pods 10 s more" }}
  {{- end }}
  {{- range $name, $value := .Values.settings }}
  - name: BANANAS_{{ upper $name }}
    value: {{ include "bananas.setting" $value | quote }}
  {{- end }}
  {{- with .Values.env }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .Values.envFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* What pods of every kind have. */}}
{{- define "bananas.pod" -}}
serviceAccountName: {{ include "bananas.serviceAccount" . }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Probes of a worker or a scheduler. During an outage of the server it is not ready, and not restarted. */}}
{{- define "bananas.probes" -}}
startupProbe:
  httpGet: {path: /live, port: health}
  periodSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /live, port: health}
  periodSeconds: 10
  failureThreshold: 3
  timeoutSeconds: 3
readinessProbe:
  httpGet: {path: /ready, port: health}
  periodSeconds: 5
  timeoutSeconds: 3
{{- end -}}

{{/* Changes when a secret of this release does, so that pods are replaced. */}}
{{- define "bananas.checksum" -}}
checksum/secrets: {{ printf "%s%s" (toJson .Values.redis) (toJson .Values.api.tokens) | sha256sum }}
{{- end -}}
