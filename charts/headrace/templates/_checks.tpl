{{/* What checks.yaml is made of. */}}

{{- define "headrace.refuse" -}}{{- fail (printf "\n\nheadrace: %s\n" .) -}}{{- end -}}

{{/* Whether the values have something at a path, `*` being every key. Argument: {values, path}. */}}
{{- define "headrace.has" -}}
{{- $key := first .path -}}
{{- $keys := eq $key "*" | ternary (keys .values) (list $key) -}}
{{- range $keys -}}
{{- if hasKey $.values . -}}
{{- if eq (len $.path) 1 -}}true{{- else if kindIs "map" (get $.values .) -}}{{- include "headrace.has" (dict "values" (get $.values .) "path" (rest $.path)) -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Refuses quantities that Kubernetes or Valkey would refuse without a name. Argument: {path, values: a part of the values}. */}}
{{- define "headrace.refuseQuantities" -}}
{{- range $key, $value := .values -}}
{{- $path := printf "%s.%s" $.path $key | trimPrefix "." -}}
{{- if and (eq $key "resources") (kindIs "map" $value) -}}
{{- range $side := list "requests" "limits" -}}
{{- range $resource, $amount := get $value $side | default dict -}}
{{- include "headrace.refuseQuantity" (dict "path" (printf "%s.%s.%s" $path $side $resource) "amount" $amount) -}}
{{- end -}}
{{- end -}}
{{- else if and (eq $key "size") (kindIs "string" $value) -}}
{{- include "headrace.refuseQuantity" (dict "path" $path "amount" $value) -}}
{{- else if and (eq $key "maxmemory") (not (regexMatch "^[0-9]+([kmg]b?|b)?$" (lower (toString $value)))) -}}
{{- include "headrace.refuse" (printf "%s is %v, which Valkey does not read as an amount of memory. Write it in Valkey's way, for example 768mb or 4gb." $path $value) -}}
{{- else if kindIs "map" $value -}}
{{- include "headrace.refuseQuantities" (dict "path" $path "values" $value) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- define "headrace.refuseQuantity" -}}
{{- if and (kindIs "string" .amount) (not (regexMatch "^[0-9]+([.][0-9]+)?([KMGTPE]i|[numkMGTPE]|[eE][0-9]+)?$" .amount)) -}}
{{- include "headrace.refuse" (printf "%s is %s, and Kubernetes knows no such quantity. Write memory and sizes as 4Gi (or 4G), CPUs as 2 or 500m." .path (quote .amount)) -}}
{{- end -}}
{{- end -}}

{{/* Refuses a kind that the cluster at hand does not know. A render without a cluster knows versions and no kinds, and is let pass. Argument: {root, api, because, install}. */}}
{{- define "headrace.refuseUnknownKind" -}}
{{- $known := .root.Capabilities.APIVersions -}}
{{- if and ($known.Has "apps/v1/Deployment") (not ($known.Has .api)) -}}
{{- include "headrace.refuse" (printf "%s, but this cluster does not know %s. %s" .because .api .install) -}}
{{- end -}}
{{- end -}}
