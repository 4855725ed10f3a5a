//! Looking at, following and cancelling operations.

use super::Session;
use super::connect::unary;
use super::describe;
use super::follow::{follow, succeeded};
use super::names::OperationChoice;
use super::output::{id, note, time};
use super::problem::Problem;
use crate::grpc::proto::backup::{
    CancelOperationRequest, GetOperationRequest, ListOperationsRequest, ListOperationsResponse, Operation, operation,
};

#[derive(Debug, clap::Subcommand)]
pub enum What {
    /// List the operations of the last 30 days, those that have not ended first
    List(List),
    /// Show one operation
    Show(Which),
    /// Follow an operation to its end; the exit code says how it ended
    Watch(Which),
    /// Ask an operation to stop; a restore is rolled back
    Cancel(Which),
}

impl Default for What {
    fn default() -> Self {
        Self::List(List::default())
    }
}

#[derive(Debug, Default, clap::Args)]
pub struct List {
    /// Only those that have not ended
    #[arg(long)]
    active: bool,
}

#[derive(Debug, clap::Args)]
pub struct Which {
    /// Id of the operation, or `latest`
    #[arg(value_name = "ID")]
    operation: OperationChoice,
}

pub async fn run(session: Session, what: What) -> Result<(), Problem> {
    let output = session.output;
    match what {
        What::List(List { active }) => output.result(&list(&session, active).await?, describe::operations),
        What::Show(which) => output.result(&get(&session, which.operation).await?, describe::operation),
        What::Watch(which) => {
            let operation = get(&session, which.operation).await?;
            let ended = follow(&session.client, operation).await?;
            output.result(&ended, describe::operation)?;
            succeeded(ended).map(|_| ())
        }
        What::Cancel(which) => {
            let operation = get(&session, which.operation).await?;
            let name = operation.name.clone();
            if operation.done {
                note(&ended(&operation));
            } else {
                let request = CancelOperationRequest { name: name.clone() };
                session.client.once(async || session.client.operations().cancel_operation(unary(request.clone())).await).await?;
                note(&format!("Cancellation was asked for. See the outcome: holdfast operations watch {}", id(&name)));
            }
            if output.json { output.result(&named(&session, name).await?, describe::operation) } else { Ok(()) }
        }
    }
}

/// Why there was nothing to cancel.
fn ended(operation: &Operation) -> String {
    let at = operation.metadata.as_ref().and_then(|about| about.end_time);
    let ended = format!("Operation {} had ended already, {}: {}.", id(&operation.name), time(at), describe::outcome(operation));
    match operation.result {
        Some(operation::Result::Restore(_)) => format!("{ended} Nothing was cancelled; to undo the restore: holdfast undo"),
        Some(operation::Result::Error(_)) => ended,
        _ => format!("{ended} Nothing was cancelled."),
    }
}

async fn list(session: &Session, active: bool) -> Result<ListOperationsResponse, Problem> {
    let mut all = ListOperationsResponse::default();
    loop {
        let page = page(session, &all.next_page_token, active).await?;
        all.operations.extend(page.operations);
        all.next_page_token = page.next_page_token;
        if all.next_page_token.is_empty() {
            return Ok(all);
        }
    }
}

/// One page, newest first.
pub async fn page(session: &Session, token: &str, active_only: bool) -> Result<ListOperationsResponse, Problem> {
    let request = ListOperationsRequest { page_token: token.to_owned(), active_only, ..Default::default() };
    session.client.repeat(async || session.client.operations().list_operations(unary(request.clone())).await).await
}

async fn get(session: &Session, choice: OperationChoice) -> Result<Operation, Problem> {
    match choice {
        OperationChoice::Named(id) => named(session, format!("operations/{id}")).await,
        OperationChoice::Latest => {
            let newest = page(session, "", false).await?.operations.into_iter().next();
            newest.ok_or_else(|| anyhow::anyhow!("there are no operations").into())
        }
    }
}

async fn named(session: &Session, name: String) -> Result<Operation, Problem> {
    let request = GetOperationRequest { name };
    session.client.repeat(async || session.client.operations().get_operation(unary(request.clone())).await).await
}
