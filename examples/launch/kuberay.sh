#!/usr/bin/env bash
# Print a RayJob for KubeRay (1.1 or newer): a cluster of pods that trains, and goes when the training ends.
#
#   HARDWARE=2x8gpu IMAGE=registry.example/r1reward-verl:gpu examples/launch/kuberay.sh | kubectl apply -f -
#   kubectl logs -f -l job-name=r1-reward
#
# The head pod has GPUs too and is one of the nodes.
set -euo pipefail
source "$(dirname "$0")/command.sh"

# A pod, as the value of `template:` that stands so many spaces to the right.
pod() {
  sed "s/^/$(printf '%*s' "$1" '')/" <<EOF
spec:
  containers:
    - name: ray
      image: "$IMAGE"
      resources:
        limits: {cpu: "$POD_CPUS", memory: "$POD_MEMORY", nvidia.com/gpu: "$GPUS_PER_NODE"}
        requests: {cpu: "$POD_CPUS", memory: "$POD_MEMORY", nvidia.com/gpu: "$GPUS_PER_NODE"}
      envFrom:
        - secretRef: {name: "$SECRET", optional: true}
      volumeMounts:
        - {name: shared, mountPath: "$VOLUME_PATH"}
        - {name: shm, mountPath: /dev/shm}
  volumes:
    - name: shared
      persistentVolumeClaim: {claimName: "$VOLUME_CLAIM"}
    - name: shm  # a container has 64 MB otherwise; Ray keeps its objects there
      emptyDir: {medium: Memory, sizeLimit: "$POD_SHARED_MEMORY"}
EOF
}

command=$(one_line "${train[@]}")
environment=$(runtime_env)
one_line "$JOB_NAME" "$IMAGE" "$SECRET" "$VOLUME_PATH" "$VOLUME_CLAIM" >/dev/null
one_line "$POD_CPUS" "$POD_MEMORY" "$POD_SHARED_MEMORY" >/dev/null
cat <<EOF
apiVersion: ray.io/v1
kind: RayJob
metadata:
  name: "$JOB_NAME"
spec:
  entrypoint: "$command"
  runtimeEnvYAML: |
    $environment
  shutdownAfterJobFinishes: true
  rayClusterSpec:
    headGroupSpec:
      rayStartParams: {dashboard-host: "0.0.0.0"}
      template:
$(pod 8)
EOF
((NODES == 1)) || cat <<EOF
    workerGroupSpecs:
      - groupName: workers
        replicas: $((NODES - 1))
        minReplicas: $((NODES - 1))
        maxReplicas: $((NODES - 1))
        rayStartParams: {}
        template:
$(pod 10)
EOF
