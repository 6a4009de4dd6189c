package config

// text is a scalar of the file or the environment as it was written, near enough: 80 and "80"
// are the same, and so are true and "true".
type text string

// words is a list of scalars; a single scalar is a list of one.
type words []text

// raw is the file as it is decoded: nothing in it is checked yet. Its tags are the only list of
// the keys there are.
type raw struct {
	TUN struct {
		Name       text `mapstructure:"name"`
		MTU        text `mapstructure:"mtu"`
		Queues     text `mapstructure:"queues"`
		TxQueueLen text `mapstructure:"txqueuelen"`
		Steering   text `mapstructure:"steering"`
	} `mapstructure:"tun"`
	Routing struct {
		Manage           text  `mapstructure:"manage"`
		Table            text  `mapstructure:"table"`
		Priority         text  `mapstructure:"priority"`
		OnFailure        text  `mapstructure:"on_failure"`
		Notrack          text  `mapstructure:"notrack"`
		ClientInterfaces words `mapstructure:"client_interfaces"`
		ServerInterfaces words `mapstructure:"server_interfaces"`
	} `mapstructure:"routing"`
	Flows struct {
		Capacity          text `mapstructure:"capacity"`
		IdleTimeout       text `mapstructure:"idle_timeout"`
		TransitoryTimeout text `mapstructure:"transitory_timeout"`
		EarlyDataMemory   text `mapstructure:"early_data_memory"`
		Grace             text `mapstructure:"grace"`
	} `mapstructure:"flows"`
	Replies struct {
		PerNetwork text `mapstructure:"per_network"`
		Neighbours text `mapstructure:"neighbours"`
	} `mapstructure:"replies"`
	Learn struct {
		Probe     text `mapstructure:"probe"`
		Rate      text `mapstructure:"rate"`
		ClosedFor text `mapstructure:"closed_for"`
		Capacity  text `mapstructure:"capacity"`
	} `mapstructure:"learn"`
	StateDir   text `mapstructure:"state_dir"`
	SecretFile text `mapstructure:"secret_file"`
	// SecretShared is whether other nodes have the same secret.
	SecretShared text `mapstructure:"secret_shared"`
	Metrics      struct {
		Listen text `mapstructure:"listen"`
	} `mapstructure:"metrics"`
	Log struct {
		Level  text `mapstructure:"level"`
		Format text `mapstructure:"format"`
	} `mapstructure:"log"`
	Defaults struct {
		Mode      text `mapstructure:"mode"`
		EarlyData text `mapstructure:"early_data"`
		ServerAck text `mapstructure:"server_ack"`
		Unknown   text `mapstructure:"unknown"`
		// Engage says what is a flood.
		Engage rawEngage `mapstructure:"engage"`
	} `mapstructure:"defaults"`
	Services []rawService `mapstructure:"services"`
}

type rawService struct {
	Name     text  `mapstructure:"name"`
	Prefixes words `mapstructure:"prefixes"`
	Ports    words `mapstructure:"ports"`
	Mode     text  `mapstructure:"mode"`
	// Engage has "" for what isn't there: then that of the defaults counts.
	Engage  rawEngage  `mapstructure:"engage"`
	Options rawOptions `mapstructure:"options"`
	// BypassRate and ClosedPorts are "" if they aren't there: the environment can't reach them.
	BypassRate text `mapstructure:"bypass_rate"`
	// EarlyData is "" if it isn't there: then that of the defaults counts.
	EarlyData text `mapstructure:"early_data"`
	// ServerAck is the same.
	ServerAck   text `mapstructure:"server_ack"`
	ClosedPorts text `mapstructure:"closed_ports"`
	// Unknown is "" if it isn't there: then that of the defaults counts.
	Unknown   text         `mapstructure:"unknown"`
	Allow     words        `mapstructure:"allow"`
	Deny      words        `mapstructure:"deny"`
	Verified  rawVerified  `mapstructure:"verified"`
	PerSource rawPerSource `mapstructure:"per_source"`
}

// rawEngage is a service's, or that of the defaults.
type rawEngage struct {
	HalfOpen text `mapstructure:"half_open"`
	SYNRate  text `mapstructure:"syn_rate"`
	Hold     text `mapstructure:"hold"`
}

// rawVerified and rawPerSource: the environment can't reach them, so that what isn't there is "".
type rawVerified struct {
	TTL  text `mapstructure:"ttl"`
	Rate text `mapstructure:"rate"`
}

type rawPerSource struct {
	Flows text `mapstructure:"flows"`
	Rate  text `mapstructure:"rate"`
}

type rawOptions struct {
	MSS        text `mapstructure:"mss"`
	WScale     text `mapstructure:"wscale"`
	SACK       text `mapstructure:"sack"`
	Timestamps text `mapstructure:"timestamps"`
	ECN        text `mapstructure:"ecn"`
}

// defaults is the value of every scalar key that the file leaves out. The keys are also those that the
// environment can override: tun.name by LEVEE_TUN_NAME.
var defaults = []struct{ key, value string }{
	{"tun.name", "tun0"},
	{"tun.mtu", auto},
	{"tun.queues", auto},
	{"tun.txqueuelen", "4096"},
	{"tun.steering", auto},
	{"routing.manage", "true"},
	{"routing.table", "7332"},
	{"routing.priority", "7300"},
	{"routing.on_failure", "block"},
	{"routing.notrack", auto},
	{"routing.client_interfaces", auto},
	{"routing.server_interfaces", auto},
	{"flows.capacity", "1048576"},
	{"flows.idle_timeout", "2h4m"},
	{"flows.transitory_timeout", "4m"},
	{"flows.early_data_memory", "64MiB"},
	{"flows.grace", "2m"},
	{"replies.per_network", "1000"},
	{"replies.neighbours", "256"},
	{"learn.probe", "true"},
	{"learn.rate", "20"},
	{"learn.closed_for", "10s"},
	{"learn.capacity", "65536"},
	{"state_dir", "/run/levee"},
	{"secret_file", "/var/lib/levee/cookie.key"},
	{"secret_shared", "false"},
	{"metrics.listen", "127.0.0.1:9742"},
	{"log.level", "info"},
	{"log.format", "text"},
	{"defaults.mode", auto},
	{"defaults.early_data", "16KiB"},
	{"defaults.server_ack", "unmeasured"},
	{"defaults.unknown", "drop"},
	{"defaults.engage.half_open", auto},
	{"defaults.engage.syn_rate", auto},
	{"defaults.engage.hold", "60s"},
}

// optionDefaults is the same for the options of a service, which the environment can't reach.
var optionDefaults = rawOptions{MSS: auto, WScale: auto, SACK: auto, Timestamps: auto, ECN: auto}

// auto is the word for "find out".
const auto = "auto"
