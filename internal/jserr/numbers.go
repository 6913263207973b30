package jserr

// The numbers by which the server names its errors ("err_code"). The list of all is
// server/errors.json of nats-server.
const (
	AccountLimits         = 10002 // the account has used up its limits
	ClusterNoPeers        = 10005 // too few nodes are known, or have room
	NoPeers               = 10005 // a cluster has no servers for the stream
	ClusterNotAvailable   = 10008 // there is no leader
	Unavailable           = 10008 // JetStream has no leader, or starts
	ConsumerNotFound      = 10014
	ServerLimits          = 10023 // the server has used up its limits
	InvalidJSON           = 10025 // also a field that the server does not know
	TooManyConsumers      = 10026 // MaxConsumers of the stream or the account
	TooManyStreams        = 10027 // MaxStreams of the account
	MemoryReserved        = 10028 // no memory for the MaxBytes of a stream
	MessageNotFound       = 10037
	NotEnabledForAccount  = 10039
	SequenceNotFound      = 10043
	StorageReserved       = 10047 // no disk for the MaxBytes of a stream
	StreamCreateFailed    = 10049 // the text says why
	InvalidConfig         = 10052
	MessageTooLarge       = 10054 // larger than MaxMsgSize
	MessageNotDeleted     = 10057
	StreamNotFound        = 10059
	SubjectsOverlap       = 10065 // another stream stores some of the subjects
	WrongLastSequence     = 10071 // the text has the actual sequence
	ReplicasUnsupported   = 10074 // a single server keeps one copy
	NotEnabled            = 10076 // the server has no JetStream
	StoreFailed           = 10077 // a limit of the stream; the text says which
	HeaderTooLarge        = 10097 // larger than 64 KiB
	WorkQueueTakenWhole   = 10099 // another consumer of the work queue takes all messages
	WorkQueueTaken        = 10100 // another consumer of the work queue takes some of the messages
	WorkQueueFromFirst    = 10101 // a consumer of a work queue must begin at the first message
	StreamSealed          = 10109 // the stream stores nothing any more
	RollupRefused         = 10111
	MaxBytesRequired      = 10113 // the account wants MaxBytes
	TooManyUnacknowledged = 10121 // MaxAckPending exceeds the limit of the server or account
	MaxBytesTooLarge      = 10122 // larger than the account allows for a stream
	RestoreNameInUse      = 10130 // the stream that is restored exists
	DuplicateSource       = 10140 // two sources of a stream are the same
	DuplicatePending      = 10158 // a cluster is storing a message with this ID
	WrongLastSequenceBusy = 10164 // a cluster is storing another message of the subject; the text has no sequence
	MessageTTLDisabled    = 10166 // the stream does not allow a TTL
	AtomicBatchDisabled   = 10174 // the stream does not allow batches
	BatchIncomplete       = 10176 // a message of the batch is missing or was refused
	BatchDuplicate        = 10201 // the stream knows the ID of a message of the batch
	TooManyBatches        = 10210 // too many batches are open
)
