from ev import *
import sys
hash5=lambda n: int(__import__('hashlib').md5(n.encode()).hexdigest(),16)%5
def load():
    meta=[];F=[]
    for r in 0,1:
        try: F.append(np.load(f'pool{r}_f.npy'))
        except FileNotFoundError: continue
        meta+=json.load(open(f'pool{r}/meta.json'))
    return pd.DataFrame(meta),np.concatenate(F)
META,POOL=load(); DEV=np.load('dev_f.npy'); SYNF=np.load('syn_f.npy')
META['held']=[hash5(p)==0 for p in META.photo]
META['clean']=(META.src=='clean').astype(float)
FR=['vsi','gmsd','mdsi','haar','dss']
# distances, larger worse
META['gmsd']=1-META.gmsd; META['mdsi']=1-META.mdsi   # higher better
R=np.mean([META[f].rank(pct=True) for f in FR],0); META['frrank']=np.where(META.clean==1,1.05,R)
META['frrank_all']=META.frrank
for f in FR: META[f+'_l']=-np.log(1-META[f].fillna(1).clip(upper=1)+{'vsi':3e-4,'gmsd':1e-3,'mdsi':3e-3,'haar':3e-3,'dss':3e-3}[f])
z=lambda v:(v-v.mean())/v.std()
META['logfr']=z(sum(z(META[f+'_l']) for f in FR))
HELD=(META.held&(META.src!='clean')).to_numpy(); HT=[META.frrank[HELD].to_numpy()]
def ridge(X,y,pen,w=None):
    mu=X.mean(0);sd=X.std(0)+1e-6; Z=(X-mu)/sd
    A=Z.T@Z+pen*np.eye(Z.shape[1]); c=np.linalg.solve(A,Z.T@(y-y.mean())); 
    return lambda Q:(Q-mu)/sd@c
if __name__=='__main__':
    S=slice(0,1120)
    tr=(~META.held).to_numpy()
    for srcs,tag in ((('wild',),'clean/wild'),(('all',),'clean/all'),(('wild','all'),'clean both')):
        m=tr&(META.kind=='clean').to_numpy()&META.src.isin(('clean',)+srcs).to_numpy()
        for tgt in ('clean','frrank','logfr'):
            for pen in (1e4,3e4):
                f=ridge(POOL[m][:,S],META[tgt][m].to_numpy(),pen)
                report(f'{tag} {tgt} {pen:g} n={m.sum()}',f(DEV[:,S]),f(SYNF[:,S]),f(POOL[HELD][:,S]),HT, worst=6 if pen==1e4 and tgt!='frrank' else 0)
    print(META.kind.value_counts(), HELD.sum())
