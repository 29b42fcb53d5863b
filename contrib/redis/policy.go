package sluiceredis

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/redis/rueidis"
)

// checkPolicy refuses a server that evicts keys, or that is too old, on any of the nodes
// that client knows of: a meter that is evicted is full again.
func checkPolicy(ctx context.Context, client rueidis.Client) error {
	nodes := client.Nodes()
	if len(nodes) == 0 {
		nodes = map[string]rueidis.Client{"": client}
	}
	for addr, node := range nodes {
		policy, version, err := ask(ctx, node)
		switch {
		case err != nil:
			return fmt.Errorf("sluiceredis: the server %s does not say whether it evicts keys: %w; if its maxmemory-policy is noeviction, say so by Config.NoEviction", addr, err)
		case policy != "noeviction":
			return fmt.Errorf("sluiceredis: maxmemory-policy of the server %s is %q: must be \"noeviction\", since a meter or a lease that is evicted is granted anew", addr, policy)
		case version > 0 && version < 7:
			return fmt.Errorf("sluiceredis: the server %s is of version %d: must be Redis 7, Valkey, or later", addr, version)
		}
	}
	return nil
}

// ask reads a node's policy, and its major version if it says that, from INFO, which managed
// servers allow as a rule, or from CONFIG GET.
func ask(ctx context.Context, node rueidis.Client) (policy string, version int, err error) {
	info, err := node.Do(ctx, node.B().Info().Build()).ToString()
	if err == nil {
		policy = line(info, "maxmemory_policy")
		major, _, _ := strings.Cut(line(info, "redis_version"), ".")
		version, _ = strconv.Atoi(major)
	}
	if policy != "" {
		return policy, version, nil
	}
	conf, err := node.Do(ctx, node.B().ConfigGet().Parameter("maxmemory-policy").Build()).AsStrMap()
	if err != nil {
		return "", 0, err
	}
	if policy = conf["maxmemory-policy"]; policy == "" {
		return "", 0, fmt.Errorf("neither INFO nor CONFIG GET has maxmemory-policy")
	}
	return policy, version, nil
}

// line is the value of a line "name:value" of text.
func line(text, name string) string {
	for l := range strings.SplitSeq(text, "\n") {
		if v, ok := strings.CutPrefix(l, name+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}
