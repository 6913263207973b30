package jserr

// The numbers by which the server names its errors ("err_code"). The list of all is
// server/errors.json of nats-server.
const (
	ClusterNoPeers        = 10005 // too few nodes are known, or have room
	ClusterNotAvailable   = 10008 // there is no leader
	AccountLimits         = 10002 // the account has used up its limits
	ConsumerNotFound      = 10014
	ServerLimits          = 10023 // the server has used up its limits
	InvalidJSON           = 10025 // also a field that the server does not know
	MessageNotFound       = 10037
	StreamCreateFailed    = 10049 // the text says why
	InvalidConfig         = 10052
	MessageTooLarge       = 10054 // larger than MaxMsgSize
	StreamNotFound        = 10059
	SubjectsOverlap       = 10065 // another stream stores some of the subjects
	WrongLastSequence     = 10071 // the text has the actual sequence
	ReplicasUnsupported   = 10074 // a single server keeps one copy
	HeaderTooLarge        = 10097 // larger than 64 KiB
	StreamSealed          = 10109 // the stream stores nothing any more
	RollupRefused         = 10111
	DuplicatePending      = 10158 // a cluster is storing a message with this ID
	WrongLastSequenceBusy = 10164 // a cluster is storing another message of the subject; the text has no sequence
	MessageTTLDisabled    = 10166 // the stream does not allow a TTL
	AtomicBatchDisabled   = 10174 // the stream does not allow batches
	BatchIncomplete       = 10176 // a message of the batch is missing or was refused
	BatchDuplicate        = 10201 // the stream knows the ID of a message of the batch
	TooManyBatches        = 10210 // too many batches are open
)
