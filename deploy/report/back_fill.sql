-- Deploy pyflowguard:report/back_fill to pg
-- Links that were never filled: imports first, then what takes its link from them, assets last. One statement: it
-- commits batch by batch.

CALL flowguard.repair(note => 'pyflowguard:report/back_fill');
