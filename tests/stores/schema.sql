-- The table and the function of LangChain's guide to Supabase, but for two things:
-- the table makes ids where none are given, and the function leaves the limit to the client.
create extension vector;

create table documents (
    id uuid primary key default gen_random_uuid(),
    content text,
    metadata jsonb,
    embedding vector (1536)
);

create function match_documents (query_embedding vector (1536), filter jsonb default '{}')
returns table (id uuid, content text, metadata jsonb, similarity float)
language sql stable as $$
    select id, content, metadata, 1 - (embedding <=> query_embedding)
    from documents
    where metadata @> filter
    order by embedding <=> query_embedding;
$$;
