{{/* Egress rules that several NetworkPolicies share. Argument: the root. */}}

{{- define "headrace.egress.dns" }}
- ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]
{{- end }}
{{- define "headrace.egress.redis" }}
{{- if not (include "headrace.redis.isExternal" .) }}
- to: [{podSelector: {matchLabels: {{ include "headrace.selector" (dict "root" . "component" "redis") | fromYaml | toJson }}}}]
  ports: [{port: 6379}]
{{- else }}
- ports: {{ range .Values.networkPolicy.redisPorts }}
    - port: {{ int . }}
    {{- end }}
  {{- with .Values.networkPolicy.redisTo }}
  to:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end }}
{{- define "headrace.egress.telemetry" }}
{{- with .Values.telemetry.otlp.endpoint }}
- ports: [{port: {{ (urlParse .).host | splitList ":" | last | int | default 443 }}}]
{{- end }}
{{- end }}
{{- define "headrace.egress.kubernetes" }}
- ports: [{port: 443}, {port: 6443}] # the Kubernetes API server
{{- end }}
