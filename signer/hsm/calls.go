package hsm

import (
	"fmt"
	"sync"
	"time"

	"github.com/miekg/pkcs11"
)

// clock knows which calls into a module are under way. A call that hangs cannot be cut short from within the process;
// whoever supervises it reads oldest and kills it.
type clock struct {
	mu    sync.Mutex
	last  uint64
	began map[uint64]time.Time // by number of the call; guarded by mu
}

func newClock() *clock { return &clock{began: map[uint64]time.Time{}} }

// call notes the beginning of a call; done notes its end.
func (c *clock) call() (done func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last++
	number := c.last
	c.began[number] = time.Now()
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.began, number)
	}
}

// oldest is when the longest of the calls under way began, zero where none is.
func (c *clock) oldest() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	var oldest time.Time
	for _, began := range c.began {
		if oldest.IsZero() || began.Before(oldest) {
			oldest = began
		}
	}
	return oldest
}

// module is a loaded library. Every call into it goes through one of the methods here, so that clock knows of it.
type module struct {
	ctx   *pkcs11.Ctx
	clock *clock
}

// loadModule loads the shared library. The caller owns the result and calls unload. It does not initialize Cryptoki.
func loadModule(path string, clock *clock) (*module, error) {
	defer clock.call()() // loading runs the library's constructors
	ctx := pkcs11.New(path)
	if ctx == nil {
		return nil, fmt.Errorf("loading PKCS#11 module %s: it is no PKCS#11 library, or it cannot be loaded; "+
			"is it for this machine's architecture, and does `ldd %[1]s` find all that it needs?", path)
	}
	return &module{ctx: ctx, clock: clock}, nil
}

func (m *module) unload() {
	defer m.clock.call()()
	m.ctx.Destroy()
}

func (m *module) initialize() error {
	defer m.clock.call()()
	return m.ctx.Initialize()
}

func (m *module) finalize() error {
	defer m.clock.call()()
	return m.ctx.Finalize()
}

func (m *module) libraryInfo() (pkcs11.Info, error) {
	defer m.clock.call()()
	return m.ctx.GetInfo()
}

func (m *module) slotsWithToken() ([]uint, error) {
	defer m.clock.call()()
	return m.ctx.GetSlotList(true)
}

func (m *module) slotInfo(slot uint) (pkcs11.SlotInfo, error) {
	defer m.clock.call()()
	return m.ctx.GetSlotInfo(slot)
}

func (m *module) tokenInfo(slot uint) (pkcs11.TokenInfo, error) {
	defer m.clock.call()()
	return m.ctx.GetTokenInfo(slot)
}

// mechanisms lists the CKM numbers that the token has.
func (m *module) mechanisms(slot uint) (map[uint]bool, error) {
	defer m.clock.call()()
	list, err := m.ctx.GetMechanismList(slot)
	if err != nil {
		return nil, fmt.Errorf("listing the token's mechanisms: %w", err)
	}
	listed := map[uint]bool{}
	for _, mechanism := range list {
		listed[mechanism.Mechanism] = true
	}
	return listed, nil
}

func (m *module) openSession(slot uint) (pkcs11.SessionHandle, error) {
	defer m.clock.call()()
	return m.ctx.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
}

func (m *module) closeSession(session pkcs11.SessionHandle) error {
	defer m.clock.call()()
	return m.ctx.CloseSession(session)
}

func (m *module) sessionInfo(session pkcs11.SessionHandle) (pkcs11.SessionInfo, error) {
	defer m.clock.call()()
	return m.ctx.GetSessionInfo(session)
}

func (m *module) login(session pkcs11.SessionHandle, pin string) error {
	defer m.clock.call()()
	return m.ctx.Login(session, pkcs11.CKU_USER, pin)
}

func (m *module) createObject(session pkcs11.SessionHandle, template []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	defer m.clock.call()()
	return m.ctx.CreateObject(session, template)
}

func (m *module) destroyObject(session pkcs11.SessionHandle, object pkcs11.ObjectHandle) error {
	defer m.clock.call()()
	return m.ctx.DestroyObject(session, object)
}

// attributes reads the values of some attributes. It fails whole where the token does not know one of them.
func (m *module) attributes(session pkcs11.SessionHandle, object pkcs11.ObjectHandle, types ...uint) ([][]byte, error) {
	defer m.clock.call()()
	template := make([]*pkcs11.Attribute, len(types))
	for i, t := range types {
		template[i] = pkcs11.NewAttribute(t, nil)
	}
	read, err := m.ctx.GetAttributeValue(session, object, template)
	if err != nil {
		return nil, err
	}
	values := make([][]byte, len(types))
	for i := range values {
		values[i] = read[i].Value
	}
	return values, nil
}

func (m *module) findInit(session pkcs11.SessionHandle, template []*pkcs11.Attribute) error {
	defer m.clock.call()()
	return m.ctx.FindObjectsInit(session, template)
}

// findSome returns at most limit objects, none where there are no more. The second result of miekg's is not used.
func (m *module) findSome(session pkcs11.SessionHandle, limit int) ([]pkcs11.ObjectHandle, error) {
	defer m.clock.call()()
	some, _, err := m.ctx.FindObjects(session, limit)
	return some, err
}

func (m *module) findFinal(session pkcs11.SessionHandle) error {
	defer m.clock.call()()
	return m.ctx.FindObjectsFinal(session)
}

func (m *module) sign(session pkcs11.SessionHandle, mechanism uint, key pkcs11.ObjectHandle, data []byte) ([]byte, error) {
	defer m.clock.call()()
	if err := m.ctx.SignInit(session, []*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, nil)}, key); err != nil {
		return nil, err
	}
	return m.ctx.Sign(session, data)
}

func (m *module) encrypt(session pkcs11.SessionHandle, mechanism *pkcs11.Mechanism, key pkcs11.ObjectHandle, data []byte) ([]byte, error) {
	defer m.clock.call()()
	if err := m.ctx.EncryptInit(session, []*pkcs11.Mechanism{mechanism}, key); err != nil {
		return nil, err
	}
	return m.ctx.Encrypt(session, data)
}

func (m *module) generateKey(session pkcs11.SessionHandle, mechanism uint, template []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	defer m.clock.call()()
	return m.ctx.GenerateKey(session, []*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, nil)}, template)
}

func (m *module) generateKeyPair(session pkcs11.SessionHandle, mechanism uint, public, private []*pkcs11.Attribute) (publicKey, privateKey pkcs11.ObjectHandle, err error) {
	defer m.clock.call()()
	return m.ctx.GenerateKeyPair(session, []*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, nil)}, public, private)
}

func (m *module) unwrapKey(session pkcs11.SessionHandle, mechanism *pkcs11.Mechanism, key pkcs11.ObjectHandle, wrapped []byte, template []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	defer m.clock.call()()
	return m.ctx.UnwrapKey(session, []*pkcs11.Mechanism{mechanism}, key, wrapped, template)
}
