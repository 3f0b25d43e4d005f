package signer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/octo-sts/appliance/sts/audit/checkpoint"
)

// maxCheckpointRequest bounds a request's body, in bytes. The longest proof and origin have some 3,500.
const maxCheckpointRequest = 8 << 10

// checkpointBody is a checkpoint.Checkpoint on the wire.
type checkpointBody struct {
	Origin string    `json:"origin"`
	Size   uint64    `json:"size"`
	Root   tlog.Hash `json:"root"` // base64
}

type checkpointRequest struct {
	checkpointBody
	OldSize uint64      `json:"old_size"`
	Proof   []tlog.Hash `json:"proof"`
}

type checkpointAnswer struct {
	Note string `json:"note"` // the signed note
}

func conflictBody(conflict *checkpoint.Conflict) errorBody {
	last := checkpointBody(conflict.Last)
	return errorBody{Error: conflict.Reason, Last: &last}
}

func (s *Server) checkpoint(_ peer, r *http.Request) (any, error) {
	var request checkpointRequest
	if err := decodeRequest(r.Body, &request); err != nil {
		return nil, &httpError{http.StatusBadRequest, "reading the request: expected origin, size, root, old_size and proof: " + err.Error()}
	}
	note, err := s.checkpoints.Countersign(r.Context(), checkpoint.Request{
		Checkpoint: checkpoint.Checkpoint(request.checkpointBody), OldSize: request.OldSize, Proof: request.Proof,
	})
	if err != nil {
		return nil, err
	}
	return checkpointAnswer{Note: string(note)}, nil
}

// Checkpoint asks for the signed note of a checkpoint. The error is a *checkpoint.Conflict where the request does not
// extend what the signer signed last; else it matches ErrUnavailable or ErrRefused.
func (c *Client) Checkpoint(ctx context.Context, r checkpoint.Request) ([]byte, error) {
	body, err := json.Marshal(checkpointRequest{checkpointBody: checkpointBody(r.Checkpoint), OldSize: r.OldSize, Proof: r.Proof})
	if err != nil {
		return nil, fmt.Errorf("encoding a request to the signer: %w", err)
	}
	var answer checkpointAnswer
	if err := c.call(ctx, http.MethodPost, pathCheckpoint, body, &answer); err != nil {
		return nil, fmt.Errorf("getting a checkpoint of size %d signed: %w", r.Size, err)
	}
	signed, err := checkpoint.Parse([]byte(answer.Note))
	if err == nil && signed != r.Checkpoint {
		err = errors.New("it is not the checkpoint that was asked for")
	}
	if err != nil {
		return nil, fmt.Errorf("getting a checkpoint of size %d signed: %w: %w", r.Size, ErrUnavailable, err)
	}
	return []byte(answer.Note), nil
}
