{{/* HEADRACE_* variables of a map of settings in camelCase. */}}
{{- define "headrace.env.settings" -}}
{{- range $name, $value := . }}
{{- if not (kindIs "invalid" $value) }}
- name: HEADRACE_{{ $name | snakecase | upper }}
  {{- if kindIs "map" $value }}
  {{- $pairs := list }}
  {{- range $key, $one := $value }}{{ $pairs = append $pairs (printf "%s=%v" $key $one) }}{{ end }}
  value: {{ join "," $pairs | quote }}
  {{- else }}
  value: {{ kindIs "string" $value | ternary $value (toJson $value) | quote }}
  {{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "headrace.redis.isExternal" -}}
{{- if or .Values.redis.external.url .Values.redis.external.existingSecret }}true{{ end -}}
{{- end -}}

{{/* Where Redis is. A password is filled in by the kubelet: $(REDIS_PASSWORD). */}}
{{- define "headrace.env.redis" -}}
{{- $external := .Values.redis.external -}}
{{- if not (include "headrace.redis.isExternal" .) }}
- name: REDIS_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ include "headrace.redis.secretName" . }}, key: password}}
- name: HEADRACE_REDIS_URL
  value: redis://:$(REDIS_PASSWORD)@{{ include "headrace.redis.name" . }}:6379/0
{{- else if and $external.url $external.existingSecret }}
- name: REDIS_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ $external.existingSecret }}, key: {{ $external.passwordKey }}}}
- name: HEADRACE_REDIS_URL
  value: {{ $external.url | quote }}
{{- else }}
- name: HEADRACE_REDIS_URL
  valueFrom:
    secretKeyRef:
      name: {{ $external.existingSecret | default (include "headrace.redis.urlSecretName" .) }}
      key: {{ empty $external.existingSecret | ternary "url" $external.urlKey }}
{{- end }}
# Written into Redis: another release under the same prefix refuses to start.
- name: HEADRACE_INSTALLATION
  value: {{ .Release.Namespace }}/{{ .Release.Name }}
{{- if include "headrace.redis.isExternal" . }}
- name: HEADRACE_REDIS_SENTINEL_SERVICE
  value: {{ $external.sentinelService | quote }}
{{- with $external.sentinelPasswordKey }}
- name: HEADRACE_REDIS_SENTINEL_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ $external.existingSecret }}, key: {{ . }}}}
{{- end }}
{{- end }}
{{- end -}}

{{/* Traces. Argument: {root, service}. */}}
{{- define "headrace.env.telemetry" -}}
{{- with .root.Values.telemetry }}
{{- if .otlp.endpoint }}
- name: OTEL_SERVICE_NAME
  value: {{ $.service }}
- name: OTEL_EXPORTER_OTLP_ENDPOINT
  value: {{ .otlp.endpoint | quote }}
- name: OTEL_EXPORTER_OTLP_PROTOCOL
  value: {{ .otlp.protocol }}
{{- with .otlp.headersSecret }}
- name: OTEL_EXPORTER_OTLP_HEADERS
  valueFrom: {secretKeyRef: {name: {{ . }}, key: headers}}
{{- end }}
# Today's names of HTTP attributes instead of the deprecated ones.
- name: OTEL_SEMCONV_STABILITY_OPT_IN
  value: http
- name: OTEL_TRACES_SAMPLER
  value: parentbased_traceidratio
- name: OTEL_TRACES_SAMPLER_ARG
  value: {{ .samplingRatio | quote }}
- name: OTEL_RESOURCE_ATTRIBUTES
  value: {{ $attributes := list (printf "k8s.namespace.name=%s" $.root.Release.Namespace) "k8s.pod.name=$(POD_NAME)" }}
    {{- range $key, $value := .resourceAttributes }}{{ $attributes = append $attributes (printf "%s=%s" $key $value) }}{{ end }}
    {{- join "," $attributes | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* What the worker needs to know of its model. Argument: {root, name, model, offline}. */}}
{{- define "headrace.env.model" -}}
- name: HEADRACE_MODEL_NAME
  value: {{ .name }}
- name: HEADRACE_MODEL_SOURCE
  value: {{ include "headrace.model.source" .model.source | quote }}
{{- with .model.revision }}
- name: HEADRACE_MODEL_REVISION
  value: {{ . | quote }}
{{- end }}
{{- if ne .model.engine "transformers" }}
- name: HEADRACE_ENGINE
  value: {{ .model.engine }}
{{- end }}
{{- with include "headrace.model.tensorParallel" .model }}
- name: HEADRACE_TENSOR_PARALLEL
  value: {{ . | quote }}
{{- end }}
- name: HEADRACE_DTYPE
  value: {{ .model.dtype }}
- name: HEADRACE_QUANTIZATION
  value: {{ .model.quantization }}
{{- with .model.contextLength }}
- name: HEADRACE_CONTEXT_LENGTH
  value: {{ int . | quote }}
{{- end }}
- name: HEADRACE_CACHE_DIR
  value: /cache/headrace
- name: HF_HOME
  value: /cache/huggingface
{{- if .offline }}
- name: HEADRACE_OFFLINE
  value: "true"
- name: HF_HUB_OFFLINE
  value: "1"
{{- else }}
{{- with .model.hub.tokenSecret }}
- name: HF_TOKEN
  valueFrom: {secretKeyRef: {name: {{ . }}, key: {{ $.model.hub.tokenKey }}}}
{{- end }}
{{- end }}
{{- end -}}
