{{/* Where and as whom a pod runs. Argument: {root, values: of the component, selector}. */}}
{{- define "headrace.pod.placement" -}}
securityContext:
  {{- toYaml .root.Values.podSecurityContext | nindent 2 }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- $constraints := .values.topologySpreadConstraints }}
{{- if kindIs "invalid" $constraints }}
{{- $constraints = list }}
{{- range .spreadOver }}
{{- $constraints = append $constraints (dict "maxSkew" 1 "topologyKey" . "whenUnsatisfiable" "ScheduleAnyway") }}
{{- end }}
{{- end }}
{{- with $constraints }}
topologySpreadConstraints:
  {{- range . }}
  - {{ mergeOverwrite (dict "labelSelector" (dict "matchLabels" ($.selector | fromYaml))) . | toYaml | nindent 4 | trim }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* Annotations of a pod; whatever is in a Secret or ConfigMap of the chart rolls the pods when it changes. Argument: {root, values}. */}}
{{- define "headrace.pod.annotations" -}}
{{- $external := .root.Values.redis.external -}}
checksum/config: {{ list .root.Values.auth.apiKeys .root.Values.api.tools $external.url .root.Values.redis.bundled.password | toJson | sha256sum }}
{{- if .root.Values.telemetry.scrapeAnnotations }}
prometheus.io/scrape: "true"
prometheus.io/port: "8001"
prometheus.io/path: /metrics
{{- end }}
{{- with .values.podAnnotations }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The certificate authority of an external Redis. */}}
{{- define "headrace.redisCa.mount" -}}
{{- if .Values.redis.external.caSecret }}
- {name: redis-ca, mountPath: /etc/headrace/redis-ca, readOnly: true}
{{- end }}
{{- end -}}
{{- define "headrace.redisCa.volume" -}}
{{- with .Values.redis.external.caSecret }}
- name: redis-ca
  secret: {secretName: {{ . }}}
{{- end }}
{{- end -}}

{{/* A token of the pod's own, short-lived and for the API server alone: mounted where a container needs it, not by default. */}}
{{- define "headrace.kubernetesToken.volume" -}}
- name: kubernetes-token
  projected:
    defaultMode: 0444
    sources:
      - serviceAccountToken: {path: token, expirationSeconds: 3607}
      - configMap: {name: kube-root-ca.crt, items: [{key: ca.crt, path: ca.crt}]}
      - downwardAPI: {items: [{path: namespace, fieldRef: {fieldPath: metadata.namespace}}]}
{{- end -}}
{{- define "headrace.kubernetesToken.mount" -}}
- {name: kubernetes-token, mountPath: /var/run/secrets/kubernetes.io/serviceaccount, readOnly: true}
{{- end -}}
