// A client of a container runtime for tests: runs pods of one container through the Container Runtime Interface, as a kubelet does.
//
// cri SOCKET ready [IMAGE]…                 waits until runtime and network are ready and the images are known
// cri SOCKET start POD IMAGE COMMAND…       starts a pod, and prints its id and its address
// cri SOCKET run POD IMAGE COMMAND…         starts a pod, waits for its container to succeed, and removes the pod
// cri SOCKET end ID                         stops and removes a pod
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// How long one call of this program may take.
const patience = time.Minute

// Between two looks at a condition.
const pause = 50 * time.Millisecond

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "cri:", err)
		os.Exit(1)
	}
}

type client struct {
	runtime cri.RuntimeServiceClient
	images  cri.ImageServiceClient
}

func run(ctx context.Context, arguments []string) error {
	if len(arguments) < 2 {
		return errors.New("usage: cri SOCKET ready|start|run|end …")
	}
	connection, err := grpc.NewClient("unix://"+arguments[0], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	c := client{cri.NewRuntimeServiceClient(connection), cri.NewImageServiceClient(connection)}
	command, rest := arguments[1], arguments[2:]
	switch {
	case command == "ready":
		return until(ctx, "runtime, network and images are ready", func() (bool, error) { return c.ready(ctx, rest) })
	case command == "start" && len(rest) > 2:
		pod, _, err := c.start(ctx, rest[0], rest[1], rest[2:])
		if err != nil {
			return err
		}
		status, err := c.runtime.PodSandboxStatus(ctx, &cri.PodSandboxStatusRequest{PodSandboxId: pod})
		if err != nil {
			return err
		}
		fmt.Println(pod, status.GetStatus().GetNetwork().GetIp())
		return nil
	case command == "run" && len(rest) > 2:
		pod, container, err := c.start(ctx, rest[0], rest[1], rest[2:])
		if err != nil {
			return err
		}
		return errors.Join(c.succeeds(ctx, container), c.end(ctx, pod))
	case command == "end" && len(rest) == 1:
		return c.end(ctx, rest[0])
	default:
		return fmt.Errorf("cannot understand %q", arguments[1:])
	}
}

// Whether pods can be started. While the runtime does not answer, they cannot.
func (c client) ready(ctx context.Context, images []string) (bool, error) {
	answer, err := c.runtime.Status(ctx, &cri.StatusRequest{})
	if err != nil {
		return false, nil
	}
	for _, condition := range answer.GetStatus().GetConditions() {
		if !condition.GetStatus() {
			return false, nil
		}
	}
	for _, image := range images {
		known, err := c.images.ImageStatus(ctx, &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: image}})
		if err != nil || known.GetImage() == nil {
			return false, err
		}
	}
	return true, nil
}

func (c client) start(ctx context.Context, pod, image string, command []string) (string, string, error) {
	config := &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: pod, Namespace: "default", Uid: "uid-of-" + pod},
		LogDirectory: "/run/pods/" + pod,
		Linux: &cri.LinuxPodSandboxConfig{
			SecurityContext: &cri.LinuxSandboxSecurityContext{
				NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER},
			},
		},
	}
	if err := os.MkdirAll(config.LogDirectory, 0o755); err != nil {
		return "", "", err
	}
	sandbox, err := c.runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: config})
	if err != nil {
		return "", "", err
	}
	id := sandbox.GetPodSandboxId()
	made, err := c.runtime.CreateContainer(ctx, &cri.CreateContainerRequest{
		PodSandboxId: id,
		Config: &cri.ContainerConfig{
			Metadata: &cri.ContainerMetadata{Name: "probe"},
			Image:    &cri.ImageSpec{Image: image},
			Command:  command,
			LogPath:  "probe.log",
			Linux: &cri.LinuxContainerConfig{
				SecurityContext: &cri.LinuxContainerSecurityContext{
					NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER},
				},
			},
		},
		SandboxConfig: config,
	})
	if err != nil {
		return "", "", errors.Join(err, c.end(ctx, id))
	}
	if _, err := c.runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: made.GetContainerId()}); err != nil {
		return "", "", errors.Join(err, c.end(ctx, id))
	}
	return id, made.GetContainerId(), nil
}

func (c client) succeeds(ctx context.Context, container string) error {
	var code int32
	err := until(ctx, "the container ends", func() (bool, error) {
		answer, err := c.runtime.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: container})
		code = answer.GetStatus().GetExitCode()
		return answer.GetStatus().GetState() == cri.ContainerState_CONTAINER_EXITED, err
	})
	if err == nil && code != 0 {
		err = fmt.Errorf("the container ended with %d", code)
	}
	return err
}

func (c client) end(ctx context.Context, pod string) error {
	if _, err := c.runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: pod}); err != nil {
		return err
	}
	_, err := c.runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: pod})
	return err
}

func until(ctx context.Context, what string, holds func() (bool, error)) error {
	for {
		if done, err := holds(); err != nil || done {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waited for: %s", what)
		case <-time.After(pause):
		}
	}
}
