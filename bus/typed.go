package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
)

// Codec turns values into data and back, for Publish and Subscribe.
type Codec interface {
	Marshal(v any) ([]byte, error)
	Unmarshal(data []byte, v any) error
}

// CodecOption is an option of both Publish and Subscribe.
type CodecOption struct{ codec Codec }

// WithCodec replaces JSON as the encoding of typed messages.
func WithCodec(c Codec) CodecOption { return CodecOption{c} }

func (c CodecOption) publish(o *PublishOptions)     { o.Codec = c.codec }
func (c CodecOption) subscribe(o *SubscribeOptions) { o.Codec = c.codec }

type jsonCodec struct{}

func (jsonCodec) Marshal(v any) ([]byte, error)      { return json.Marshal(v) }
func (jsonCodec) Unmarshal(data []byte, v any) error { return json.Unmarshal(data, v) }

// Publish encodes v, as JSON unless WithCodec says otherwise, and publishes it on
// subject. With T = Message it publishes its data and header as they are.
func Publish[T any](ctx context.Context, b Bus, subject string, v T, opts ...PublishOption) error {
	if m, raw := any(v).(Message); raw {
		for key, values := range m.Header {
			opts = append(opts[:len(opts):len(opts)], WithHeader(key, values...))
		}
		return b.Publish(ctx, subject, m.Data, opts...)
	}
	codec := NewPublishOptions(opts).Codec
	if codec == nil {
		codec = jsonCodec{}
	}
	data, err := codec.Marshal(v)
	if err != nil {
		return fmt.Errorf("bus: publish %q: encode %s: %w", subject, reflect.TypeFor[T](), err)
	}
	return b.Publish(ctx, subject, data, opts...)
}

// Subscribe decodes each message that matches pattern into a T, from JSON unless
// WithCodec says otherwise, and calls handler with it. With T = Message the handler is
// given the message itself. What doesn't decode goes to the error hook with its subject.
func Subscribe[T any](ctx context.Context, b Bus, pattern string, handler func(ctx context.Context, v T) error, opts ...SubscribeOption) (Subscription, error) {
	if h, raw := any(handler).(func(context.Context, Message) error); raw {
		return b.Subscribe(ctx, pattern, func(ctx context.Context, m *Message) error { return h(ctx, *m) }, opts...)
	}
	codec := NewSubscribeOptions(opts).Codec
	if codec == nil {
		codec = jsonCodec{}
	}
	return b.Subscribe(ctx, pattern, func(ctx context.Context, m *Message) error {
		var v T
		if err := codec.Unmarshal(m.Data, &v); err != nil {
			return fmt.Errorf("bus: decode %q into %s: %s", m.Subject, reflect.TypeFor[T](), withoutPayload(err))
		}
		return handler(ctx, v)
	}, opts...)
}

// withoutPayload says what went wrong in decoding. The errors of decoders quote what
// they read, which is somebody's data and doesn't belong in a log.
func withoutPayload(err error) string {
	if e, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Sprintf("not valid JSON at byte %d", e.Offset)
	}
	if e, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Sprintf("field %q at byte %d can't be a %s", e.Field, e.Offset, e.Type)
	}
	return fmt.Sprintf("it doesn't decode (%T)", err)
}
