{{/* The workload that takes everything off the nodes again. It has what the agent has, and no account. It goes to all nodes: one that agents are
kept off may have had one, and to restore one twice changes nothing. */}}
{{- define "azure-vnet.restorer" -}}
apiVersion: apps/v1
kind: DaemonSet
metadata:
  name: {{ include "azure-vnet.fullname" . }}-uninstall
  namespace: {{ .Release.Namespace }}
  labels:
    {{- include "azure-vnet.labels" . | nindent 4 }}
    app.kubernetes.io/component: uninstall-node
spec:
  selector:
    matchLabels:
      {{- include "azure-vnet.selector" (list . "uninstall-node") | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "azure-vnet.labels" . | nindent 8 }}
        app.kubernetes.io/component: uninstall-node
    spec:
      automountServiceAccountToken: false
      priorityClassName: {{ .Values.agent.priorityClassName }}
      terminationGracePeriodSeconds: 5
      hostNetwork: true
      dnsPolicy: Default
      {{- with .Values.imagePullSecrets }}
      imagePullSecrets:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      securityContext:
        seccompProfile: {type: RuntimeDefault}
      nodeSelector:
        kubernetes.io/os: linux
      tolerations:
        - {operator: Exists}
      containers:
        - name: restore
          image: {{ include "azure-vnet.image" . }}
          imagePullPolicy: {{ .Values.image.pullPolicy }}
          command: [/usr/bin/azure-vnet-operator]
          args:
            - restore
            - --stay
            - --addresses={{ .Values.uninstall.addresses }}
            - --metrics-bind=0.0.0.0:{{ .Values.agent.metricsPort }}
            - --proc-sys-net=/host/proc/sys/net
            - --boot-id-file=/host/boot_id
            - --log-format=text
            - --log-level={{ .Values.log.level }}
          ports:
            - {name: metrics, containerPort: {{ .Values.agent.metricsPort }}, protocol: TCP}
          readinessProbe:
            httpGet: {path: /readyz, port: metrics}
            periodSeconds: 2
            timeoutSeconds: 5
          terminationMessagePolicy: FallbackToLogsOnError
          resources:
            requests: {cpu: 10m, memory: 24Mi}
            limits: {memory: 96Mi}
          securityContext:
            runAsUser: 0
            runAsGroup: 0
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities:
              drop: [ALL]
              add: [NET_ADMIN, NET_RAW]
          volumeMounts:
            - {name: run, mountPath: /run/azure-vnet}
            - {name: state, mountPath: /var/lib/azure-vnet}
            - {name: cni-conf, mountPath: /etc/cni/net.d}
            - {name: cni-bin, mountPath: /opt/cni/bin}
            - {name: netns, mountPath: /run/netns, readOnly: true, mountPropagation: HostToContainer}
            - {name: xtables-lock, mountPath: /run/xtables.lock}
            - {name: log, mountPath: /var/log}
            - {name: proc-sys-net, mountPath: /host/proc/sys/net}
            - {name: boot-id, mountPath: /host/boot_id, readOnly: true}
      volumes:
        - {name: run, hostPath: {path: /run/azure-vnet, type: DirectoryOrCreate}}
        - {name: state, hostPath: {path: /var/lib/azure-vnet, type: DirectoryOrCreate}}
        - {name: cni-conf, hostPath: {path: /etc/cni/net.d, type: DirectoryOrCreate}}
        - {name: cni-bin, hostPath: {path: /opt/cni/bin, type: DirectoryOrCreate}}
        - {name: netns, hostPath: {path: /run/netns, type: DirectoryOrCreate}}
        - {name: xtables-lock, hostPath: {path: /run/xtables.lock, type: FileOrCreate}}
        - {name: log, hostPath: {path: /var/log, type: Directory}}
        - {name: proc-sys-net, hostPath: {path: /proc/sys/net, type: Directory}}
        - {name: boot-id, hostPath: {path: /proc/sys/kernel/random/boot_id, type: File}}
{{- end -}}
