{{/* Names. */}}
{{- define "sluice.name" -}}
{{- if contains "sluice" .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-sluice" .Release.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "sluice.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (include "sluice.name" .) }}{{ else }}{{ .Values.serviceAccount.name | default "default" }}{{ end }}
{{- end }}

{{- define "sluice.selector" -}}
app.kubernetes.io/name: sluice
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "sluice.labels" -}}
{{ include "sluice.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Images: the registry goes in front of whatever has none of its own. */}}
{{- define "sluice.withRegistry" -}}
{{- $first := index (splitList "/" .image) 0 -}}
{{- if and .registry (not (and (contains "/" .image) (or (contains "." $first) (contains ":" $first)))) }}{{ .registry }}/{{ end }}{{ .image }}
{{- end }}

{{- define "sluice.image" -}}
{{- $image := printf "%s:%s" .Values.image.repository (.Values.image.tag | default .Chart.AppVersion) -}}
{{- if .Values.image.digest }}{{ $image = printf "%s@%s" .Values.image.repository .Values.image.digest }}{{ end -}}
{{- include "sluice.withRegistry" (dict "registry" .Values.image.registry "image" $image) }}
{{- end }}

{{- define "sluice.runtimeImage" -}}
{{- if .Values.runtime.image }}{{ include "sluice.withRegistry" (dict "registry" .Values.image.registry "image" .Values.runtime.image) }}{{ else }}{{ include "sluice.image" . }}{{ end }}
{{- end }}

{{- define "sluice.routerImage" -}}
{{- include "sluice.withRegistry" (dict "registry" .Values.image.registry "image" .Values.router.image) }}
{{- end }}

{{/* What the operator may do in a namespace that it works in. docs/install.md says why, verb by verb. */}}
{{- define "sluice.workRules" -}}
- apiGroups: [sluice.dev]
  resources: [modeldeployments]
  verbs: [get, list, watch, patch]
- apiGroups: [sluice.dev]
  resources: [modeldeployments/status]
  verbs: [patch]
- apiGroups: [sluice.dev]
  resources: [modeldeployments/finalizers]
  verbs: [update]
- apiGroups: [sluice.dev]
  resources: [modelrevisions]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services, configmaps]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, delete]
- apiGroups: [""]
  resources: [pods/status]
  verbs: [patch]
- apiGroups: [""]
  resources: [pods/log]
  verbs: [get]
- apiGroups: [""]
  resources: [secrets]
  resourceNames: [sluice-router-tls]
  verbs: [get, patch]
- apiGroups: [""]
  resources: [secrets]
  resourceNames: [sluice-metrics]
  verbs: [get]
- apiGroups: [""]
  resources: [secrets]
  verbs: [create]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}

{{- define "sluice.clusterRules" -}}
- apiGroups: [sluice.dev]
  resources: [trustpolicies]
  verbs: [get, list, watch]
{{- end }}

{{/* What it may do in its own namespace besides. */}}
{{- define "sluice.ownRules" -}}
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [{{ .Values.lease.name }}]
  verbs: [get, patch]
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
- apiGroups: [""]
  resources: [secrets]
  resourceNames: [sluice-operator-ca]
  verbs: [get, patch]
- apiGroups: [""]
  resources: [secrets]
  verbs: [create]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}

{{/*
"true" when a CRD (by its file's path) was applied by somebody else: by kubectl, or by another
release. It is then theirs to upgrade, and the notes say so. Without a cluster to ask, none is.
*/}}
{{- define "sluice.crdIsForeign" -}}
{{- $parts := splitList "_" (base .path | trimSuffix ".yaml") }}
{{- $name := printf "%s.%s" (last $parts) (first $parts) }}
{{- $there := lookup "apiextensions.k8s.io/v1" "CustomResourceDefinition" "" $name }}
{{- $notes := dig "metadata" "annotations" dict $there | default dict }}
{{- $release := .root.Release }}
{{- $ours := and (eq (get $notes "meta.helm.sh/release-name") $release.Name) (eq (get $notes "meta.helm.sh/release-namespace") $release.Namespace) }}
{{- and (not (empty $there)) (not $ours) (not .root.Values.crds.adopt) | ternary "true" "false" }}
{{- end }}
