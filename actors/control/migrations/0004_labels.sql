-- Labels of principals and resources, what rules select by them, and where a rule that came out of a file is written.

ALTER TABLE principals ADD COLUMN labels TEXT NOT NULL DEFAULT '{}';
ALTER TABLE resources ADD COLUMN labels TEXT NOT NULL DEFAULT '{}';
ALTER TABLE policies ADD COLUMN principal_labels TEXT NOT NULL DEFAULT '[]';
ALTER TABLE policies ADD COLUMN resource_labels TEXT NOT NULL DEFAULT '[]';
ALTER TABLE policies ADD COLUMN place TEXT;
