{{- define "skep-webhook.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- /* At most 40 letters: the longest suffix of a Service leaves no more. */ -}}
{{- define "skep-webhook.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "skep-webhook.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "skep-webhook.namespace" -}}
{{- if .Values.namespaceOverride -}}
{{- .Values.namespaceOverride -}}
{{- else if .Values.namespace.create -}}
{{- printf "%s-system" (include "skep-webhook.fullname" .) -}}
{{- else -}}
{{- .Release.Namespace -}}
{{- end -}}
{{- end -}}

{{- define "skep-webhook.selectorLabels" -}}
app.kubernetes.io/name: {{ include "skep-webhook.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "skep-webhook.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "skep-webhook.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "skep-webhook.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (printf "%s-controller-manager" (include "skep-webhook.fullname" .)) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "skep-webhook.image" -}}
{{- .Values.image.repository -}}{{- with .Values.image.tag -}}:{{ . }}{{- end -}}
{{- end -}}

{{- define "skep-webhook.service" -}}
{{ include "skep-webhook.fullname" . }}-webhook-service
{{- end -}}

{{- define "skep-webhook.mutating" -}}
{{ include "skep-webhook.fullname" . }}-mutating-webhook-configuration
{{- end -}}

{{- define "skep-webhook.validating" -}}
{{ include "skep-webhook.fullname" . }}-validating-webhook-configuration
{{- end -}}

{{- /* Secret that cert-manager writes. */ -}}
{{- define "skep-webhook.certificateSecret" -}}
{{ include "skep-webhook.fullname" . }}-webhook-server-cert
{{- end -}}

{{- /* Secret and Lease of the webhook's own certificate. Not the name of cert-manager's Secret, so that one may
change from the one to the other. */ -}}
{{- define "skep-webhook.selfSigned" -}}
{{ include "skep-webhook.fullname" . }}-self-signed-cert
{{- end -}}

{{- define "skep-webhook.issuer" -}}
{{- if .Values.certManager.issuer.create -}}
{{- default (printf "%s-selfsigned-issuer" (include "skep-webhook.fullname" .)) .Values.certManager.issuer.name -}}
{{- else -}}
{{- required "certManager.issuer.name is needed where certManager.issuer.create is false" .Values.certManager.issuer.name -}}
{{- end -}}
{{- end -}}

{{- /* The kinds, the versions that are served, and the one that is stored. */ -}}
{{- define "skep-webhook.kinds" -}}
- {kind: mcpserver, plural: mcpservers, versions: [v1alpha1, v1beta1], stored: v1beta1}
- {kind: mcpremoteproxy, plural: mcpremoteproxies, versions: [v1alpha1, v1beta1], stored: v1beta1}
- {kind: mcpexternalauthconfig, plural: mcpexternalauthconfigs, versions: [v1alpha1, v1beta1], stored: v1beta1}
- {kind: mcptoolconfig, plural: mcptoolconfigs, versions: [v1alpha1, v1beta1], stored: v1beta1}
- {kind: mcpoidcconfig, plural: mcpoidcconfigs, versions: [v1alpha1, v1beta1], stored: v1beta1}
- {kind: mcpauthzconfig, plural: mcpauthzconfigs, versions: [v1alpha1, v1beta1], stored: v1beta1}
- {kind: mcpgroup, plural: mcpgroups, versions: [v1alpha1, v1beta1], stored: v1beta1}
- {kind: mcptelemetryconfig, plural: mcptelemetryconfigs, versions: [v1alpha1, v1beta1], stored: v1beta1}
- {kind: mcpwebhookconfig, plural: mcpwebhookconfigs, versions: [v1alpha1], stored: v1alpha1}
- {kind: mcpserverentry, plural: mcpserverentries, versions: [v1alpha1, v1beta1], stored: v1beta1}
{{- end -}}

{{- define "skep-webhook.namespaceSelector" -}}
{{- with .Values.webhook.namespaceSelector.matchLabels -}}
matchLabels:
  {{- toYaml . | nindent 2 }}
{{ end -}}
matchExpressions:
  - key: kubernetes.io/metadata.name
    operator: NotIn
    values:
      - kube-system
      - kube-node-lease
      - kube-public
      - {{ include "skep-webhook.namespace" . }}
  {{- with .Values.webhook.namespaceSelector.matchExpressions }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- /* What every webhook of the two configurations has. */ -}}
{{- define "skep-webhook.entry" -}}
admissionReviewVersions:
  - v1
sideEffects: None
matchPolicy: Equivalent
failurePolicy: {{ .Values.webhook.failurePolicy }}
timeoutSeconds: {{ .Values.webhook.timeoutSeconds }}
namespaceSelector:
  {{- include "skep-webhook.namespaceSelector" . | nindent 2 }}
{{- end -}}

{{- define "skep-webhook.injectCa" -}}
cert-manager.io/inject-ca-from: {{ include "skep-webhook.namespace" . }}/{{ include "skep-webhook.fullname" . }}-serving-cert
{{- end -}}
