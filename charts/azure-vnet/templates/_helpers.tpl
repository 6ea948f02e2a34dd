{{- define "azure-vnet.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "azure-vnet.labels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* Labels that never change: (list . "controller") */}}
{{- define "azure-vnet.selector" -}}
{{- $top := index . 0 -}}
app.kubernetes.io/name: {{ default $top.Chart.Name $top.Values.nameOverride }}
app.kubernetes.io/instance: {{ $top.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* Name of the service account: (list . "controller") */}}
{{- define "azure-vnet.account" -}}
{{- $top := index . 0 -}}
{{- $component := index . 1 -}}
{{- $account := (index $top.Values $component).serviceAccount -}}
{{- if $account.name -}}
{{- $account.name -}}
{{- else if $account.create -}}
{{- printf "%s-%s" (include "azure-vnet.fullname" $top) $component -}}
{{- else -}}
{{- fail (printf "%s.serviceAccount.create is false: give the name of the one to use in %s.serviceAccount.name" $component $component) -}}
{{- end -}}
{{- end -}}

{{- define "azure-vnet.image" -}}
{{- if not .Values.image.repository -}}
{{- fail "image.repository is not set: the project publishes no image. Build it with the Dockerfile, push it to a registry that your nodes can pull from, and pass --set image.repository=REGISTRY/azure-vnet" -}}
{{- end -}}
{{- $repository := .Values.image.repository -}}
{{- with .Values.global.imageRegistry -}}
{{- /* What has a dot or a port, or is localhost, is a registry: as container runtimes see it. */ -}}
{{- $repository = printf "%s/%s" (trimSuffix "/" .) (regexReplaceAll "^(localhost|[^/]*[.:][^/]*)/" $repository "") -}}
{{- end -}}
{{- if and .Values.image.digest .Values.image.tag -}}
{{- printf "%s:%s@%s" $repository .Values.image.tag .Values.image.digest -}}
{{- else if .Values.image.digest -}}
{{- printf "%s@%s" $repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "azure-vnet.start-up-taint" -}}
{{- $readiness := default dict .Values.config.spec.readiness -}}
{{- default "azure-vnet.dev/agent-not-ready" $readiness.startupTaint -}}
{{- end -}}

{{/* Environment of both workloads. */}}
{{- define "azure-vnet.env" -}}
- name: NODE_NAME
  valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
{{- if .Values.kubernetesApi.host }}
- name: AZURE_VNET_KUBE_API_HOST
  value: {{ .Values.kubernetesApi.host | quote }}
- name: AZURE_VNET_KUBE_API_PORT
  value: {{ .Values.kubernetesApi.port | quote }}
{{- end }}
{{- with .Values.azure.endpoints.imds }}
- name: AZURE_IMDS_ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{- with .Values.azure.endpoints.wireserver }}
- name: AZURE_WIRESERVER_ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{- end -}}

{{/* Environment of the controller alone: nobody else talks to Resource Manager. */}}
{{- define "azure-vnet.azure-env" -}}
{{- with .Values.azure.endpoints.resourceManager }}
- name: AZURE_RESOURCE_MANAGER_ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{- with .Values.azure.endpoints.resourceManagerAudience }}
- name: AZURE_RESOURCE_MANAGER_AUDIENCE
  value: {{ . | quote }}
{{- end }}
{{- with .Values.azure.endpoints.authorityHost }}
- name: AZURE_AUTHORITY_HOST
  value: {{ . | quote }}
{{- end }}
{{- if or .Values.azure.ca.secretName .Values.azure.ca.configMapName }}
- name: SSL_CERT_FILE
  value: /etc/azure-vnet/ca/{{ .Values.azure.ca.key }}
{{- end }}
{{- with .Values.azure.httpsProxy }}
- name: HTTPS_PROXY
  value: {{ . | quote }}
{{- end }}
{{- with .Values.azure.noProxy }}
- name: NO_PROXY
  value: {{ . | quote }}
{{- end }}
{{- with .Values.azure.credential.managedIdentity }}
- name: AZURE_CLIENT_ID
  value: {{ .clientId | quote }}
{{- end }}
{{- with .Values.azure.credential.workloadIdentity }}
- name: AZURE_CLIENT_ID
  value: {{ .clientId | quote }}
- name: AZURE_TENANT_ID
  value: {{ .tenantId | quote }}
- name: AZURE_FEDERATED_TOKEN_FILE
  value: /var/run/secrets/azure/tokens/azure-identity-token
{{- end }}
{{- with .Values.azure.credential.clientSecret }}
- name: AZURE_CLIENT_ID
  value: {{ .clientId | quote }}
- name: AZURE_TENANT_ID
  value: {{ .tenantId | quote }}
- name: AZURE_CLIENT_SECRET_FILE
  value: /var/run/secrets/azure/client-secret/{{ default "client-secret" .secretKey }}
{{- end }}
{{- end -}}

{{/* Volumes of the controller's credential and certificates. */}}
{{- define "azure-vnet.azure-volumes" -}}
{{- if .Values.azure.ca.secretName }}
- name: ca
  secret: {secretName: {{ .Values.azure.ca.secretName }}}
{{- else if .Values.azure.ca.configMapName }}
- name: ca
  configMap: {name: {{ .Values.azure.ca.configMapName }}}
{{- end }}
{{- with .Values.azure.credential.workloadIdentity }}
- name: azure-token
  projected:
    sources:
      - serviceAccountToken:
          audience: {{ default "api://AzureADTokenExchange" .audience | quote }}
          expirationSeconds: 3600
          path: azure-identity-token
{{- end }}
{{- with .Values.azure.credential.clientSecret }}
- name: client-secret
  secret: {secretName: {{ .secretName }}}
{{- end }}
{{- end -}}

{{- define "azure-vnet.azure-mounts" -}}
{{- if or .Values.azure.ca.secretName .Values.azure.ca.configMapName }}
- {name: ca, mountPath: /etc/azure-vnet/ca, readOnly: true}
{{- end }}
{{- if .Values.azure.credential.workloadIdentity }}
- {name: azure-token, mountPath: /var/run/secrets/azure/tokens, readOnly: true}
{{- end }}
{{- if .Values.azure.credential.clientSecret }}
- {name: client-secret, mountPath: /var/run/secrets/azure/client-secret, readOnly: true}
{{- end }}
{{- end -}}
