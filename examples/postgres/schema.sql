-- The tables of Chainlit's own data layer for PostgreSQL.
CREATE TABLE IF NOT EXISTS "User" (
  id TEXT PRIMARY KEY,
  identifier TEXT NOT NULL UNIQUE,
  metadata JSONB NOT NULL DEFAULT '{}',
  "createdAt" TIMESTAMP NOT NULL DEFAULT now(),
  "updatedAt" TIMESTAMP NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS "Thread" (
  id TEXT PRIMARY KEY,
  name TEXT,
  metadata JSONB NOT NULL DEFAULT '{}',
  tags TEXT[] NOT NULL DEFAULT '{}',
  "userId" TEXT REFERENCES "User" (id),
  "createdAt" TIMESTAMP NOT NULL DEFAULT now(),
  "updatedAt" TIMESTAMP NOT NULL DEFAULT now(),
  "deletedAt" TIMESTAMP
);
CREATE TABLE IF NOT EXISTS "Step" (
  id TEXT PRIMARY KEY,
  "threadId" TEXT REFERENCES "Thread" (id) ON DELETE CASCADE,
  "parentId" TEXT REFERENCES "Step" (id) ON DELETE CASCADE,
  type TEXT NOT NULL,
  name TEXT,
  input TEXT,
  output TEXT,
  metadata JSONB NOT NULL DEFAULT '{}',
  "showInput" TEXT DEFAULT 'json',
  "isError" BOOLEAN DEFAULT false,
  "startTime" TIMESTAMP,
  "endTime" TIMESTAMP,
  "createdAt" TIMESTAMP NOT NULL DEFAULT now(),
  "updatedAt" TIMESTAMP NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS "Element" (
  id TEXT PRIMARY KEY,
  "threadId" TEXT REFERENCES "Thread" (id) ON DELETE CASCADE,
  "stepId" TEXT REFERENCES "Step" (id) ON DELETE CASCADE,
  metadata JSONB NOT NULL DEFAULT '{}',
  mime TEXT,
  name TEXT NOT NULL,
  "objectKey" TEXT,
  url TEXT,
  "chainlitKey" TEXT,
  display TEXT,
  size TEXT,
  language TEXT,
  page INTEGER,
  props JSONB,
  "createdAt" TIMESTAMP NOT NULL DEFAULT now(),
  "updatedAt" TIMESTAMP NOT NULL DEFAULT now()
);
CREATE TABLE IF NOT EXISTS "Feedback" (
  id TEXT PRIMARY KEY,
  "stepId" TEXT REFERENCES "Step" (id) ON DELETE CASCADE,
  name TEXT NOT NULL,
  value DOUBLE PRECISION NOT NULL,
  comment TEXT,
  "createdAt" TIMESTAMP NOT NULL DEFAULT now(),
  "updatedAt" TIMESTAMP NOT NULL DEFAULT now()
);
CREATE INDEX IF NOT EXISTS "Thread_userId" ON "Thread" ("userId");
CREATE INDEX IF NOT EXISTS "Step_threadId" ON "Step" ("threadId");
CREATE INDEX IF NOT EXISTS "Feedback_stepId" ON "Feedback" ("stepId");
