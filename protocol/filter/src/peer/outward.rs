//! From the resource to the device.

use std::time::Duration;

use protocol_packet::{Headers, IcmpKind, Ip, Quoted, Rewrite, Transport, reset_for};

use super::{PeerFilter, Verdict};
use crate::flow::{Endpoint, FlowEnd, FlowKey, State};
use crate::{Offload, Reason, ReplyBuf};

impl PeerFilter {
    /// Checks a packet that came from the resource's side for this peer, and translates it in place.
    ///
    /// Only packets of live flows pass, and ICMP errors about them; these seem to come from the flow's destination,
    /// whichever router sent them, so that the device learns no other address.
    pub fn outward(
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
        if !self.is_inner(headers.destination) {
            return Verdict::Drop(Reason::NotForPeer);
        }
        if self.is_blocked() {
            return Verdict::Drop(Reason::Revoked);
        }
        let (port, outer_port) = match headers.transport {
            Transport::Tcp(tcp) => (tcp.source, tcp.destination),
            Transport::Udp(udp) => (udp.source, udp.destination),
            Transport::Icmp(icmp) => match icmp.kind {
                IcmpKind::EchoReply { id, .. } => (0, id),
                IcmpKind::Error => return self.error_outward(packet, &headers, offload, now),
                // The device is nobody's server.
                IcmpKind::EchoRequest { .. } => return Verdict::Drop(Reason::NoFlow),
                IcmpKind::Other => return Verdict::Drop(Reason::NotCarried),
            },
            Transport::Other(_) => return Verdict::Drop(Reason::NotCarried),
        };
        let key = FlowKey::new(
            headers.protocol(),
            Endpoint::new(headers.destination, outer_port),
            Endpoint::new(headers.source, port),
        );
        let Some(slot) = self.flows.find_by_resource(&key) else { return Verdict::Drop(Reason::NoFlow) };
        let live = match self.flows.get(slot) {
            Some(flow) if flow.state == State::Cut => false,
            Some(flow) if flow.ticket.ends > now => true,
            Some(_) => self.reconsider(slot, FlowEnd::GrantEnded, now),
            None => return Verdict::Drop(Reason::NoFlow),
        };
        if !live {
            return self.refuse_outward(&headers, now, out);
        }
        let Some(flow) = self.flows.get_mut(slot) else { return Verdict::Drop(Reason::NoFlow) };
        let payload = headers.total_len - headers.headers_len();
        let sooner = flow.sent_by_resource(&headers, offload.packets(payload), now);
        let change = flow.towards_device();
        if sooner {
            self.flows.schedule(slot);
        }
        match headers.rewrite(packet, &change, offload.checksum) {
            Ok(()) => Verdict::Forward { length: headers.total_len },
            Err(_) => Verdict::Drop(Reason::NotRewritten),
        }
    }

    /// Resets the resource's end of a connection that was cut, should it have missed the first RST.
    fn refuse_outward(&mut self, headers: &Headers, now: Duration, out: &mut ReplyBuf) -> Verdict {
        if out.write(|out| reset_for(out, headers)) && self.to_resource.take(now) {
            Verdict::Reply(Reason::FlowCut)
        } else {
            Verdict::Drop(Reason::FlowCut)
        }
    }

    /// An ICMP error about a packet of the device.
    fn error_outward(
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
        let (outer_port, port) = match quote.quoted {
            Quoted::Tcp { source, destination, .. } | Quoted::Udp { source, destination } => {
                (source, destination)
            }
            Quoted::EchoRequest { id } => (id, 0),
            Quoted::EchoReply { .. } => return Verdict::Drop(Reason::UnknownQuote),
        };
        if quote.source != headers.destination {
            return Verdict::Drop(Reason::UnknownQuote);
        }
        let key = FlowKey::new(
            quote.protocol(),
            Endpoint::new(quote.source, outer_port),
            Endpoint::new(quote.destination, port),
        );
        let flow = self.flows.find_by_resource(&key).and_then(|slot| self.flows.get(slot));
        let Some(flow) = flow.filter(|flow| flow.state != State::Cut && flow.ticket.ends > now) else {
            return Verdict::Drop(Reason::UnknownQuote);
        };
        let outer = Rewrite { source: Some(flow.shown.ip()), ..Rewrite::default() };
        let rewritten = quote
            .rewrite(packet, headers, &flow.quote_towards_device(), offload.checksum)
            .and_then(|()| headers.rewrite(packet, &outer, offload.checksum));
        match rewritten {
            Ok(()) => Verdict::Forward { length: headers.total_len },
            Err(_) => Verdict::Drop(Reason::NotRewritten),
        }
    }
}
