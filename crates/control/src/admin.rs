//! `Admin`: status and dumps for commands.

use std::sync::Arc;

use bartizan_proto::v1alpha1::{DumpReply, DumpRequest, StatusReply, StatusRequest};
use tonic::{Request, Response, Status as Answer};

use crate::issue::{Issuer, shortened, workload_name};
use crate::keys::KeysHandle;
use crate::rpc::admin_server::Admin;
use crate::state::{Message, OwnerGone, OwnerHandle};
use crate::status::Status;

/// The service that commands speak to.
#[derive(Clone)]
pub(crate) struct AdminService {
    issuer: Arc<Issuer>,
    owner: OwnerHandle,
    keys: KeysHandle,
}

impl AdminService {
    pub(crate) fn new(issuer: Arc<Issuer>, owner: OwnerHandle, keys: KeysHandle) -> Self {
        Self { issuer, owner, keys }
    }

    /// What runs now.
    pub(crate) async fn current(&self) -> Result<Status, OwnerGone> {
        // Before the owner is asked: what was seen of keys then has been told to it.
        let keys = self.keys.seen();
        let mut status = self.owner.ask(Message::Status).await?;
        status.authority = self.issuer.status();
        status.key_sets.clone_from(&keys.sets);
        status.counts.keys.clone_from(&keys.counts);
        Ok(status)
    }
}

#[tonic::async_trait]
impl Admin for AdminService {
    async fn status(&self, _request: Request<StatusRequest>) -> Result<Response<StatusReply>, Answer> {
        let status = self
            .current()
            .await
            .map_err(|error| Answer::unavailable(error.to_string()))?;
        let status = serde_json::to_vec(&status)
            .map_err(|error| Answer::internal(format!("write the status: {error}")))?
            .into();
        Ok(Response::new(StatusReply { status }))
    }

    async fn dump(&self, request: Request<DumpRequest>) -> Result<Response<DumpReply>, Answer> {
        let text = request.into_inner().workload;
        let workload = if text.is_empty() {
            None
        } else {
            let name = workload_name(&text).map_err(|error| {
                Answer::invalid_argument(format!(
                    "`{}` is not a workload's name: {error}",
                    shortened(&text)
                ))
            })?;
            Some(name)
        };
        let reply = self
            .owner
            .ask(|reply| Message::Dump(workload, reply))
            .await
            .map_err(|error| Answer::unavailable(error.to_string()))?;
        reply
            .map(Response::new)
            .ok_or_else(|| Answer::not_found(format!("workload `{}` is not known", shortened(&text))))
    }
}
