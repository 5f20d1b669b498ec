//! From the device to the resource.

use std::net::IpAddr;
use std::time::Duration;

use protocol_packet::{Headers, IcmpKind, Ip, Quoted, Rewrite, TcpFlags, Transport};

use super::{PeerFilter, Verdict};
use crate::flow::{Endpoint, Flow, FlowEnd, FlowKey, State};
use crate::flows::{Flows, Slot};
use crate::table::{Granted, Ticket};
use crate::{Destination, Offload, Output, Reason, ReplyBuf, Service, TrafficFilter};

/// Whether a packet's flow is there.
enum Found {
    Live(Slot),
    /// None, or one that is over: a new one may take its place.
    None(Option<Slot>),
}

impl PeerFilter {
    /// Checks a packet that the peer sent, and translates it in place.
    pub fn inward(
        &mut self,
        packet: &mut [u8],
        offload: Offload,
        now: Duration,
        out: &mut ReplyBuf,
    ) -> Verdict {
        let headers = match Ip::parse(packet) {
            Ok(ip) => *ip.headers(),
            Err(malformed) => return Verdict::Drop(Reason::Malformed(malformed)),
        };
        if !self.is_inner(headers.source) {
            return Verdict::Drop(Reason::SpoofedSource);
        }
        if self.is_blocked() {
            return Verdict::Drop(Reason::Revoked);
        }
        let (device_port, port, service) = match headers.transport {
            Transport::Tcp(tcp) => (tcp.source, tcp.destination, Service::Tcp(tcp.destination)),
            Transport::Udp(udp) => (udp.source, udp.destination, Service::Udp(udp.destination)),
            Transport::Icmp(icmp) => match icmp.kind {
                IcmpKind::EchoRequest { id, .. } => (id, 0, Service::Icmp),
                IcmpKind::Error => return self.error_inward(packet, &headers, offload, now),
                IcmpKind::EchoReply { .. } | IcmpKind::Other => return Verdict::Drop(Reason::NotCarried),
            },
            Transport::Other(_) => return self.refuse(packet, &headers, Reason::NotCarried, now, out),
        };
        let device = Endpoint::new(headers.source, device_port);
        let shown = Endpoint::new(headers.destination, port);
        let key = FlowKey::new(headers.protocol(), device, shown);
        let slot = match self.find(&key, &headers, now) {
            Found::Live(slot) => slot,
            Found::None(over) => match self.begin(&headers, key, device, shown, service, over, now) {
                Ok(slot) => slot,
                Err(reason) => return self.refuse(packet, &headers, reason, now, out),
            },
        };
        let Some(flow) = self.flows.get_mut(slot) else { return Verdict::Drop(Reason::NoFlow) };
        let payload = headers.total_len - headers.headers_len();
        let sooner = flow.sent_by_device(&headers, offload.packets(payload), now);
        let change = flow.towards_resource();
        if sooner {
            self.flows.schedule(slot);
        }
        match headers.rewrite(packet, &change, offload.checksum) {
            Ok(()) => Verdict::Forward { length: headers.total_len },
            Err(_) => Verdict::Drop(Reason::NotRewritten),
        }
    }

    /// Looks a flow up, and ends it here if its grant has ended meanwhile.
    fn find(&mut self, key: &FlowKey, headers: &Headers, now: Duration) -> Found {
        let Some(slot) = self.flows.find_by_device(key) else { return Found::None(None) };
        let Some(flow) = self.flows.get(slot) else { return Found::None(None) };
        let is_new = headers.tcp().is_some_and(|tcp| tcp.flags.has(TcpFlags::SYN));
        match flow.state {
            State::Cut => Found::None(Some(slot)),
            State::Closing if is_new => Found::None(Some(slot)),
            State::Opening | State::Open | State::Closing if flow.ticket.ends > now => Found::Live(slot),
            State::Opening | State::Open | State::Closing => {
                if self.reconsider(slot, FlowEnd::GrantEnded, now) {
                    Found::Live(slot)
                } else {
                    Found::None(self.flows.find_by_device(key))
                }
            }
        }
    }

    /// Begins a flow if a grant allows it.
    #[expect(clippy::too_many_arguments, reason = "the facts of one packet")]
    fn begin(
        &mut self,
        headers: &Headers,
        key: FlowKey,
        device: Endpoint,
        shown: Endpoint,
        service: Service,
        over: Option<Slot>,
        now: Duration,
    ) -> Result<Slot, Reason> {
        let (ticket, real) = self.admitted(shown.ip(), service, key, now)?;
        if headers.tcp().is_some_and(|tcp| tcp.flags.has(TcpFlags::RST)) {
            return Err(Reason::NoFlow);
        }
        if let Some(flow) = over.and_then(|over| self.flows.remove(over))
            && flow.state != State::Cut
        {
            self.outputs.push_back(Output::FlowEnded(flow.record(FlowEnd::Closed)));
        }
        let number = headers.protocol();
        let outer_port = self.flows.outer_port(number, device, Endpoint::new(real, shown.port()))?;
        self.flows.insert(Flow::new(number, device, shown, real, outer_port, ticket, now))
    }

    /// The grant that admits a new flow, and the real address that it leads to.
    fn admitted(
        &self,
        destination: IpAddr,
        service: Service,
        key: FlowKey,
        now: Duration,
    ) -> Result<(Ticket, IpAddr), Reason> {
        // The reason of the grant that came furthest is told.
        let mut nearest = Reason::NoGrant;
        for granted in self.grants.granted(destination) {
            match self.admits(granted, destination, service, key, now) {
                Ok(real) => return Ok((granted.ticket.clone(), real)),
                Err(reason) => nearest = nearest.or_nearer(reason),
            }
        }
        Err(nearest)
    }

    /// Whether one grant admits a new flow, and where it then leads.
    fn admits(
        &self,
        granted: &Granted,
        destination: IpAddr,
        service: Service,
        key: FlowKey,
        now: Duration,
    ) -> Result<IpAddr, Reason> {
        if !TrafficFilter::any(&granted.spec.filters, service) {
            return Err(Reason::Filtered);
        }
        if granted.spec.ends <= now {
            return Err(Reason::GrantEnded);
        }
        match &granted.spec.destination {
            Destination::Cidr(_) => self.rules.admit(destination, false).map(|()| destination),
            Destination::Ip(_) => self.rules.admit(destination, true).map(|()| destination),
            Destination::Name { real, .. } => {
                let mut refused = Reason::NoAddress;
                let mut usable = 0;
                let same_family = |address: &&IpAddr| address.is_ipv4() == destination.is_ipv4();
                for address in real.iter().filter(same_family) {
                    match self.rules.admit(*address, false) {
                        Ok(()) => usable += 1,
                        Err(reason) => refused = reason,
                    }
                }
                let mut admitted = real
                    .iter()
                    .filter(same_family)
                    .filter(|address| self.rules.admit(**address, false).is_ok());
                admitted.nth(Flows::choose(key, usable)).copied().ok_or(refused)
            }
        }
    }

    /// The grant by which a live flow may go on.
    pub(super) fn still_admitted(&self, flow: &Flow, service: Service, now: Duration) -> Option<&Ticket> {
        let granted = self.grants.granted(flow.shown.ip()).find(|granted| {
            let same = match (&granted.spec.destination, &flow.ticket.name) {
                // Another name may have taken over a mapped address: that is another resource.
                (Destination::Name { name, .. }, Some(begun)) => **begun == **name,
                (Destination::Cidr(_) | Destination::Ip(_), None) => true,
                (Destination::Name { .. }, None) | (Destination::Cidr(_) | Destination::Ip(_), Some(_)) => {
                    false
                }
            };
            let exact = matches!(granted.spec.destination, Destination::Ip(_));
            // The real address that it began with stays, whatever the name resolves to now.
            same && TrafficFilter::any(&granted.spec.filters, service)
                && granted.spec.ends > now
                && self.rules.admit(flow.real.ip(), exact).is_ok()
        });
        granted.map(|granted| &granted.ticket)
    }

    /// An ICMP error of the device about a packet that the resource sent it.
    fn error_inward(
        &mut self,
        packet: &mut [u8],
        headers: &Headers,
        offload: Offload,
        now: Duration,
    ) -> Verdict {
        let quote = match headers.quote(packet) {
            Ok(quote) => quote,
            Err(malformed) => return Verdict::Drop(Reason::Malformed(malformed)),
        };
        let (port, device_port) = match quote.quoted {
            Quoted::Tcp { source, destination, .. } | Quoted::Udp { source, destination } => {
                (source, destination)
            }
            Quoted::EchoReply { id } => (0, id),
            Quoted::EchoRequest { .. } => return Verdict::Drop(Reason::UnknownQuote),
        };
        // It goes to whom it quotes, and speaks of packets to the device.
        if quote.source != headers.destination || quote.destination != headers.source {
            return Verdict::Drop(Reason::UnknownQuote);
        }
        let key = FlowKey::new(
            quote.protocol(),
            Endpoint::new(quote.destination, device_port),
            Endpoint::new(quote.source, port),
        );
        let flow = self.flows.find_by_device(&key).and_then(|slot| self.flows.get(slot));
        let Some(flow) = flow.filter(|flow| flow.state != State::Cut && flow.ticket.ends > now) else {
            return Verdict::Drop(Reason::UnknownQuote);
        };
        let quoted = flow.quote_towards_resource();
        let outer = Rewrite { destination: Some(flow.real.ip()), ..Rewrite::default() };
        let rewritten = quote
            .rewrite(packet, headers, &quoted, offload.checksum)
            .and_then(|()| headers.rewrite(packet, &outer, offload.checksum));
        match rewritten {
            Ok(()) => Verdict::Forward { length: headers.total_len },
            Err(_) => Verdict::Drop(Reason::NotRewritten),
        }
    }
}
