package appliance

import (
	"context"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/octo-sts/appliance/signer"
	"github.com/octo-sts/appliance/sts/audit"
)

// checkpoints are the audit log's. No exchange waits for them.
type checkpoints struct {
	run    *audit.Checkpointer
	logger *zap.Logger
}

func newCheckpoints(ctx context.Context, c Audit, log *audit.Log, signerClient *signer.Client, signed func([]byte), logger *zap.Logger) (*checkpoints, error) {
	run, err := audit.NewCheckpointer(ctx, audit.CheckpointerConfig{
		Log:         log,
		Origin:      c.Origin,
		Countersign: signerClient.Checkpoint,
		OnSigned:    signed,
		Logger:      logger,
	})
	if err != nil {
		return nil, err
	}
	return &checkpoints{run, logger}, nil
}

// follow returns soon after the log is closed: until then there may be entries to
// be covered, those of exchanges that a stop waits for too.
func (c *checkpoints) follow() {
	if err := c.run.Run(context.Background()); err != nil {
		c.logger.Warn("the last entries of the audit log have no signed checkpoint yet; the next start asks for one", zap.Error(err))
	}
}

// maxCheckpointAge is for how long an entry may be without a checkpoint that covers it.
// One is made each second.
const maxCheckpointAge = time.Minute

// check never fails: entries are as durable without a checkpoint.
func (c *checkpoints) check() check {
	s := c.run.Status()
	detail := fmt.Sprintf("size %d is signed", s.Signed.Size)
	if s.Uncovered > 0 {
		detail += fmt.Sprintf(", %d entries are not", s.Uncovered)
	}
	if s.Uncovered > 0 && !s.Oldest.IsZero() {
		detail += " since " + s.Oldest.UTC().Format(time.RFC3339)
	}
	switch {
	case s.Contradiction:
		return check{"checkpoint", stateDegraded, fmt.Sprintf("THE AUDIT LOG IS NOT THE ONE THAT WAS SIGNED: %v; %s", s.Err, detail)}
	case s.Err != nil:
		return check{"checkpoint", stateDegraded, fmt.Sprintf("%s: %v", detail, s.Err)}
	case !s.Oldest.IsZero() && time.Since(s.Oldest) > maxCheckpointAge:
		return check{"checkpoint", stateDegraded, detail + ": checkpoints do not follow the log"}
	}
	return check{"checkpoint", stateReady, detail}
}

func (c *checkpoints) measure(m *metrics) {
	for _, gauge := range []struct {
		name, help string
		value      func(audit.CheckpointStatus) float64
	}{
		{"octo_sts_audit_checkpoint_size", "Entries of the audit log that the newest signed checkpoint covers.",
			func(s audit.CheckpointStatus) float64 { return float64(s.Signed.Size) }},
		{"octo_sts_audit_checkpoint_timestamp_seconds", "When the newest signed checkpoint of the audit log was written, in Unix time; 0: there is none.",
			func(s audit.CheckpointStatus) float64 { return unixTime(s.SignedAt) }},
		{"octo_sts_audit_checkpoint_behind_seconds", "Age of the oldest entry of the audit log that no signed checkpoint covers; 0 where there is none.",
			func(s audit.CheckpointStatus) float64 {
				if s.Oldest.IsZero() {
					return 0
				}
				return time.Since(s.Oldest).Seconds()
			}},
		{"octo_sts_audit_checkpoint_contradiction", "1 while the audit log is not the one that was signed, else 0.",
			func(s audit.CheckpointStatus) float64 {
				if s.Contradiction {
					return 1
				}
				return 0
			}},
	} {
		m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: gauge.name, Help: gauge.help},
			func() float64 { return gauge.value(c.run.Status()) }))
	}
}
