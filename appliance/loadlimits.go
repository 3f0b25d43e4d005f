package appliance

import "fmt"

func (k *checker) checkLimits(l Limits) {
	if l.Concurrent < 1 || l.Burst < 1 || l.PerAddress <= 0 {
		k.wrong("limits", "concurrent, per_address and burst are greater than zero")
	}
	if l.Connections < 1 || l.ConnectionsPerAddress < 1 {
		k.wrong("limits", "connections and connections_per_address are greater than zero")
	}
	if l.PerIssuer <= 0 || l.BurstPerIssuer < 1 {
		k.wrong("limits", "per_issuer and burst_per_issuer are greater than zero")
	}
	if l.DeniedPerSubject < 1 || l.DeniedPerOwner < 1 {
		k.wrong("limits", "denied_per_subject and denied_per_owner are greater than zero")
	}
}

func (k *checker) checkProxies(l Listen) {
	for i := range l.Proxies {
		if _, err := parseProxies(l.Proxies[i : i+1]); err != nil {
			k.wrong(fmt.Sprintf("listen.proxies[%d]", i), "%v", err)
		}
	}
	if l.ProxyProtocol && len(l.Proxies) == 0 {
		k.wrong("listen.proxy_protocol", "needs listen.proxies: the PROXY protocol is believed from nobody else")
	}
}
