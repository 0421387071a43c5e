{{/* Every name and label of the chart is made here. */}}

{{- define "headrace.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 43 | trimSuffix "-" -}}
{{- end -}}

{{/* What all names of a release begin with, before it is made to fit. */}}
{{- define "headrace.wholeName" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains (include "headrace.name" .) .Release.Name -}}
{{- .Release.Name -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "headrace.name" .) -}}
{{- end -}}
{{- end -}}

{{/* At most 43 characters, so that the longest suffix of a Service still fits into 63. A longer one ends in a hash of the whole, because two that begin alike must stay two. */}}
{{- define "headrace.fullname" -}}
{{- $whole := include "headrace.wholeName" . -}}
{{- if le (len $whole) 43 -}}
{{- $whole | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" ($whole | trunc 36 | trimSuffix "-") ($whole | sha256sum | trunc 6) -}}
{{- end -}}
{{- end -}}

{{- define "headrace.api.name" -}}{{ include "headrace.fullname" . }}-api{{- end -}}
{{- define "headrace.api.internalName" -}}{{ include "headrace.fullname" . }}-api-internal{{- end -}}
{{- define "headrace.redis.name" -}}{{ include "headrace.fullname" . }}-redis{{- end -}}
{{- define "headrace.redis.secretName" -}}{{ .Values.redis.bundled.existingSecret | default (include "headrace.redis.name" .) }}{{- end -}}
{{- define "headrace.redis.urlSecretName" -}}{{ include "headrace.fullname" . }}-redis-url{{- end -}}
{{/* Whether the API asks for keys. */}}
{{- define "headrace.auth.on" -}}
{{- with .Values.auth }}{{ if or .existingSecret .keys .apiKeys }}true{{ end }}{{ end -}}
{{- end -}}
{{- define "headrace.auth.secretName" -}}{{ .Values.auth.existingSecret | default (printf "%s-api-keys" (include "headrace.fullname" .)) }}{{- end -}}
{{- define "headrace.tools.name" -}}{{ include "headrace.fullname" . }}-tools{{- end -}}

{{/* Of one model; argument: {root, model: its name}. */}}
{{- define "headrace.worker.name" -}}{{ include "headrace.fullname" .root }}-worker-{{ .model }}{{- end -}}

{{- define "headrace.api.serviceAccountName" -}}
{{- if .Values.api.serviceAccount.create -}}
{{- .Values.api.serviceAccount.name | default (include "headrace.api.name" .) -}}
{{- else -}}
{{- .Values.api.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{- define "headrace.worker.serviceAccountName" -}}
{{- if .Values.worker.serviceAccount.create -}}
{{- .Values.worker.serviceAccount.name | default (printf "%s-worker" (include "headrace.fullname" .)) -}}
{{- else -}}
{{- .Values.worker.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end -}}

{{/* Selectors: these labels and never others, because a Deployment's selector cannot change. Argument: {root, component, model?}. */}}
{{- define "headrace.selector" -}}
app.kubernetes.io/name: {{ include "headrace.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- with .model }}
headrace/model: {{ . }}
{{- end }}
{{- end -}}

{{/* metadata of an object. Argument: {root, name, component, model?, labels?, annotations?}. */}}
{{- define "headrace.metadata" -}}
name: {{ .name }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- $own := include "headrace.selector" . | fromYaml }}
  {{- $chart := dict "helm.sh/chart" (printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_") "app.kubernetes.io/version" .root.Chart.AppVersion "app.kubernetes.io/managed-by" .root.Release.Service "app.kubernetes.io/part-of" "headrace" }}
  {{- mergeOverwrite (deepCopy (.root.Values.commonLabels | default dict)) (.labels | default dict) $chart $own | toYaml | nindent 2 }}
{{- with mergeOverwrite (deepCopy (.root.Values.commonAnnotations | default dict)) (.annotations | default dict) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Argument: {root, repository, tag}. */}}
{{- define "headrace.image" -}}
{{- with .root.Values.image.registry }}{{ . }}/{{ end }}{{ .repository }}:{{ .tag }}
{{- end -}}

{{- define "headrace.api.image" -}}
{{- .Values.api.image | default (include "headrace.image" (dict "root" . "repository" .Values.image.api.repository "tag" (.Values.image.api.tag | default .Chart.AppVersion))) -}}
{{- end -}}

{{/* Argument: {root, spec: the model}. */}}
{{- define "headrace.worker.image" -}}
{{- $image := .root.Values.image.worker -}}
{{- $tag := $image.tag | default .root.Chart.AppVersion -}}
{{- if eq .spec.engine "vllm" -}}
{{- $tag = $image.vllmTag | default (printf "%s-vllm" .root.Chart.AppVersion) -}}
{{- else if not (int .spec.gpu.count) -}}
{{- $tag = $image.cpuTag | default $image.tag | default (printf "%s-cpu" .root.Chart.AppVersion) -}}
{{- end -}}
{{- .spec.image | default (include "headrace.image" (dict "root" .root "repository" $image.repository "tag" $tag)) -}}
{{- end -}}
